"""Whatever schemathesis makes of the contract, right and wrong, the running service answers as the contract says."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx2
import schemathesis
from hypothesis import HealthCheck, Phase, given
from hypothesis import settings as hypothesis_settings
from schemathesis import GenerationMode
from schemathesis.core import NOT_SET

from testbed.patience import seconds
from testbed.replicas import Replica
from tests.web.test_admin import SECRET
from tests.web.test_contracts import OPENAPI, answered

EXAMPLES = 8
"""Of each operation and mode: enough for every parameter, in some seconds. A longer run changes this number."""


def operations() -> Mapping[tuple[str, str], Any]:
    """By path and method; draining comes last, because it changes what all others answer."""
    schema: Any = schemathesis.openapi.from_dict(OPENAPI)
    found = [one.ok() for one in schema.get_all_operations()]
    found.sort(key=lambda operation: operation.path == "/admin/drain")
    return {(operation.path, operation.method.lower()): operation for operation in found}


def cases(operation: Any) -> Sequence[Any]:
    """Some of an operation, the same with each run: as the schema says, and otherwise where it has a parameter."""
    found: list[Any] = []
    for mode in GenerationMode if list(operation.iter_parameters()) else [GenerationMode.POSITIVE]:

        @hypothesis_settings(
            max_examples=EXAMPLES,
            derandomize=True,
            database=None,
            deadline=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(case=operation.as_strategy(generation_mode=mode))
        def collect(case: Any) -> None:
            found.append(case)

        collect()
    return found


def sent(client: httpx2.Client, base: str, case: Any) -> httpx2.Response:
    """Send a case; of a stream that does not end only the head is read."""
    # Nobody may stop the replica before the test does.
    query = {name: value for name, value in (case.query or {}).items() if name != "stop"}
    path = case.operation.path
    for name, value in (case.path_parameters or {}).items():
        path = path.replace(f"{{{name}}}", str(httpx2.URL(path=f"/{value}").raw_path.decode()[1:]))
    headers = {name: str(value) for name, value in (case.headers or {}).items() if name != "Authorization"}
    body = {} if case.body is NOT_SET else {"json": case.body}
    request = client.build_request(case.method, base + path, params=query, headers=headers, **body)
    answer = client.send(request, stream=True)
    try:
        if answer.headers.get("Content-Type", "").startswith("text/event-stream"):
            return httpx2.Response(answer.status_code, headers=answer.headers, content=b"", request=request)
        answer.read()
        return answer
    finally:
        answer.close()


def test_no_response_is_one_that_the_contract_does_not_name(replicas: Callable[..., Replica], tmp_path: Path) -> None:
    """Each operation is called on its port with valid and other values; the seed is fixed."""
    (tmp_path / "token").write_text(SECRET)
    settings = {"operations_bind": "127.0.0.1:0", "admin_token_file": tmp_path / "token"}
    replica = replicas("127.0.0.1:9", "assets", settings=settings)
    statuses: Counter[tuple[str, int]] = Counter()
    public = {"/events", "/openapi.json", "/messages.schema.json"}
    with httpx2.Client(timeout=seconds(20), headers={"Authorization": f"Bearer {SECRET}"}) as client:
        for (path, method), operation in operations().items():
            base = replica.url if path in public else replica.operations_url
            for case in cases(operation):
                try:
                    answer = sent(client, base, case)
                except httpx2.LocalProtocolError:
                    continue  # no client can send such a header
                answered(answer, path, method)
                statuses[path, answer.status_code] += 1
    replica.get("/livez").raise_for_status()
    assert {path for path, _ in statuses} == set(OPENAPI["paths"])
    assert statuses["/events", 200]
    assert statuses["/events", 400]
    assert statuses["/admin/subscribers", 200]
    assert statuses["/admin/subscribers", 400]
    assert {status for _, status in statuses} <= {200, 202, 304, 400, 404, 429, 503}
