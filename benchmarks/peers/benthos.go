// Benthos' own command line with one input more: Kafka by franz-go, which its core does not have.
//
// A poll brings one batch for each partition. Benthos acknowledges a batch when a client's socket has taken it, in any
// order; what is committed goes no further than the first batch that is still out.
package main

import (
	"context"
	"sync"

	"github.com/Jeffail/checkpoint"
	_ "github.com/redpanda-data/benthos/v4/public/components/io"
	"github.com/redpanda-data/benthos/v4/public/service"
	"github.com/twmb/franz-go/pkg/kgo"
)

type input struct {
	options []kgo.Opt
	most    int
	client  *kgo.Client
	fetched []kgo.FetchTopicPartition

	mutex sync.Mutex
	out   map[int32]*checkpoint.Uncapped[*kgo.Record]
}

func (i *input) Connect(context.Context) (err error) {
	i.client, err = kgo.NewClient(i.options...)
	return err
}

func (i *input) ReadBatch(ctx context.Context) (service.MessageBatch, service.AckFunc, error) {
	for len(i.fetched) == 0 {
		fetches := i.client.PollRecords(ctx, i.most)
		if err := fetches.Err0(); err != nil {
			return nil, nil, err
		}
		fetches.EachPartition(func(partition kgo.FetchTopicPartition) {
			if len(partition.Records) > 0 {
				i.fetched = append(i.fetched, partition)
			}
		})
	}
	records := i.fetched[0].Records
	i.fetched = i.fetched[1:]
	batch := make(service.MessageBatch, len(records))
	for place, record := range records {
		batch[place] = service.NewMessage(record.Value)
	}
	last := records[len(records)-1]
	i.mutex.Lock()
	defer i.mutex.Unlock()
	if i.out[last.Partition] == nil {
		i.out[last.Partition] = checkpoint.NewUncapped[*kgo.Record]()
	}
	dispatched := i.out[last.Partition].Track(last, int64(len(records)))
	return batch, func(context.Context, error) error {
		i.mutex.Lock()
		defer i.mutex.Unlock()
		if upTo := dispatched(); upTo != nil {
			i.client.MarkCommitRecords(*upTo)
		}
		return nil
	}, nil
}

func (i *input) Close(context.Context) error {
	if i.client != nil {
		i.client.Close()
	}
	return nil
}

func main() {
	spec := service.NewConfigSpec().Fields(
		service.NewStringListField("seed_brokers"),
		service.NewStringField("topic"),
		service.NewStringField("consumer_group"),
		service.NewIntField("max_poll_records"),
	)
	service.MustRegisterBatchInput("franz", spec,
		func(config *service.ParsedConfig, _ *service.Resources) (service.BatchInput, error) {
			brokers, err := config.FieldStringList("seed_brokers")
			if err != nil {
				return nil, err
			}
			topic, err := config.FieldString("topic")
			if err != nil {
				return nil, err
			}
			group, err := config.FieldString("consumer_group")
			if err != nil {
				return nil, err
			}
			most, err := config.FieldInt("max_poll_records")
			if err != nil {
				return nil, err
			}
			return service.AutoRetryNacksBatched(&input{
				options: []kgo.Opt{
					kgo.SeedBrokers(brokers...),
					kgo.ConsumeTopics(topic),
					kgo.ConsumerGroup(group),
					kgo.AutoCommitMarks(),
				},
				most: most,
				out:  map[int32]*checkpoint.Uncapped[*kgo.Record]{},
			}), nil
		})
	service.RunCLI(context.Background())
}
