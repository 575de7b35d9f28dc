"""The HTTP example, by a real client over loopback."""

import asyncio
import re
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from hf_models import bert, llama, made
from serving import NAMES

pytest.importorskip("fastapi")
httpx, uvicorn = pytest.importorskip("httpx"), pytest.importorskip("uvicorn")

from batching import Batcher, QueueFullError  # noqa: E402 - they need what may be missing
from engine import Engine  # noqa: E402
from server import create_app  # noqa: E402

IDS = [[3, 1, 4, 1], [5, 9, 2], [6, 5, 3, 5, 8], [9, 7], [9, 3, 2], [3, 8, 4, 6]]


@pytest.fixture(scope="module", params=[bert, llama])
def served(request, tmp_path_factory):
    """(client, models, engine) with a server behind."""
    folder = tmp_path_factory.mktemp("served")
    _, store, models = made(folder, request.param)
    engine = Engine(str(store.path))
    config = uvicorn.Config(create_app(engine, max_wait=0.2, max_queue=64), port=0, log_level="error")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        thread.join(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
        yield client, models, engine
    server.should_exit = True
    thread.join()


def metric(client, name):
    found = re.search(rf"^{re.escape(name)} (\d+)$", client.get("/metrics").text, re.MULTILINE)
    return int(found.group(1)) if found else 0


def test_requests_of_different_models_become_one_batch(served):
    client, models, _ = served
    assert client.get("/models").json() == list(NAMES)
    batches, rows = metric(client, "pydelta_batches_total"), metric(client, "pydelta_batch_rows_total")

    def ask(i):
        return client.post("/predict", json={"model": NAMES[i % 3], "input_ids": IDS[i]})

    with ThreadPoolExecutor(len(IDS)) as pool:
        answers = list(pool.map(ask, range(len(IDS))))
    for i, answer in enumerate(answers):
        assert answer.status_code == 200, answer.text
        name = NAMES[i % 3]
        assert answer.json()["model"] == name
        with torch.no_grad():
            truth = models[name](torch.tensor([IDS[i]])).logits[0]
        truth = truth[-1] if truth.dim() == 2 else truth
        torch.testing.assert_close(torch.tensor(answer.json()["logits"]), truth, rtol=1e-3, atol=1e-3)
    assert metric(client, "pydelta_batch_rows_total") == rows + len(IDS)
    assert metric(client, "pydelta_batches_total") < batches + len(IDS)
    assert metric(client, "pydelta_swaps_saved_total") >= 1
    assert metric(client, 'pydelta_requests_total{model="a"}') >= 2


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        ({"model": "z", "input_ids": [1]}, 404, "no model 'z'; there are a, b, c"),
        ({"model": "a"}, 400, "give text or input_ids, one of them"),
        ({"model": "a", "text": "x", "input_ids": [1]}, 400, "give text or input_ids, one of them"),
        ({"model": "a", "text": "x"}, 400, "the base has no tokenizer: give input_ids"),
        ({"model": "a", "input_ids": []}, 400, "tokens, got 0"),
        ({"model": "a", "input_ids": [1, 30]}, 400, "input_ids must lie in [0, 29], got 30"),
        ({"model": "a", "input_ids": [-1]}, 400, "input_ids must lie in [0, 29], got -1"),
        ({"model": "a", "input_ids": [1] * 5000}, 400, "tokens, got 5000"),
        ({"model": "a", "input_ids": "1"}, 422, "list"),
        ({"model": "a", "input_ids": [1.5]}, 422, "integer"),
        ({"input_ids": [1]}, 422, "model"),
        ({"model": "a", "input_ids": [1], "temperature": 1}, 422, "temperature"),
    ],
)
def test_bad_requests(served, body, status, message):
    client, _, _ = served
    before = metric(client, f'pydelta_refused_total{{status="{status}"}}')
    answer = client.post("/predict", json=body)
    assert answer.status_code == status
    assert message in answer.text.replace("\\", "")
    assert metric(client, f'pydelta_refused_total{{status="{status}"}}') == before + 1


def test_no_json(served):
    assert (
        served[0].post("/predict", content=b"{", headers={"content-type": "application/json"}).status_code
        == 422
    )
    assert served[0].get("/nothing").status_code == 404


def test_batcher():
    """Batches are as large as allowed, errors reach every request of theirs, a full queue refuses."""
    sizes, gate = [], threading.Event()

    def run(requests):
        gate.wait(10)
        sizes.append(len(requests))
        if "bad" in requests:
            raise RuntimeError("bad")
        return [2 * r for r in requests]

    async def main():
        async with Batcher(run, max_batch=4, max_wait=0.05, max_queue=6) as batcher:
            first = [asyncio.create_task(batcher.ask(i)) for i in range(6)]
            await asyncio.sleep(0)
            with pytest.raises(QueueFullError):
                await batcher.ask(9)
            gate.set()
            assert await asyncio.gather(*first) == [0, 2, 4, 6, 8, 10]
            found = await asyncio.gather(batcher.ask("bad"), batcher.ask(1), return_exceptions=True)
            assert [str(error) for error in found] == ["bad", "bad"]
            assert await batcher.ask(5) == 10

    asyncio.run(main())
    assert sizes == [4, 2, 2, 1]
