"""What happens to topics in use, on a broker whose answers do not always arrive."""

from concurrent.futures import Future
from typing import Any

import pytest
from confluent_kafka import KafkaError, KafkaException

from testbed.broker import topics
from tests.conftest import Kafka


class Unanswered:
    """An admin client whose first request of a kind is carried out, and answered by a time-out."""

    def __init__(self, cluster: Kafka, request: str) -> None:
        self._admin = cluster.admin
        self._request = request
        self.asked = 0

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._admin, name)
        return self._time_out(method) if name == self._request else method

    def _time_out(self, method: Any) -> Any:
        def ask(*arguments: Any, **more: Any) -> Any:
            self.asked += 1
            answers = method(*arguments, **more)
            if self.asked > 1:
                return answers
            unanswered: Future[Any] = Future()
            for answer in answers.values():
                answer.result(30)
            unanswered.set_exception(KafkaException(KafkaError(KafkaError._TIMED_OUT)))
            return dict.fromkeys(answers, unanswered)

        return ask


@pytest.mark.parametrize("request_name", ["delete_topics", "create_topics"])
def test_a_topic_is_made_again_though_an_answer_does_not_arrive(kafka: Kafka, request_name: str) -> None:
    """A creation whose answer was lost is taken neither for the old topic nor for a failure.

    It may be asked for more than twice: a broker may describe the old topic for a moment.
    """
    topic = kafka.create_topic(1)
    admin = Unanswered(kafka, request_name)
    topics.recreate(admin, topic, 2)  # type: ignore[arg-type] # it has the methods of one
    topics.wait_until_known(kafka.admin, topic)
    assert len(kafka.admin.list_topics(topic).topics[topic].partitions) == 2
    assert admin.asked >= 2
