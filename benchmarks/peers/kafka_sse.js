'use strict';
// kafka_sse.js OPTIONS: KafkaSSE behind Node's own HTTP server, as its README shows it; it prints its port.
// Values are sent as they are, instead of being parsed as JSON and written as JSON again.

const http = require('http');
const bunyan = require('bunyan');
const kafkaSse = require('kafka-sse');

const options = JSON.parse(process.argv[2]);
options.logger = bunyan.createLogger({ name: 'KafkaSSE', level: 'error' });
options.deserializer = (kafkaMessage) => {
    kafkaMessage.message = kafkaMessage.value.toString();
    return kafkaMessage;
};

const server = http.createServer((req, res) => {
    kafkaSse(req, res, req.url.replace('/', '').split(','), options);
});
server.listen({ port: 0, host: '127.0.0.1', backlog: 4096 }, () => {
    console.log(JSON.stringify({ port: server.address().port }));
});
