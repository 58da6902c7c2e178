"""How the pack behaves while it runs: progress, cancel, errors in the canvas's words, a quiet log."""

from __future__ import annotations

import time

from harness.checkpoints import BASE, MODEL_A, MODEL_B
from harness.client import Client, Event
from harness.graph import Graph, Output
from harness.server import Server


def models(graph: Graph) -> list[Output]:
    names = (MODEL_A, MODEL_B, BASE)
    return [graph.add("CheckpointLoaderSimple", "MODEL", "CLIP", "VAE", ckpt_name=name)[0] for name in names]


def long_merge(graph: Graph) -> str:
    """A merge that takes a while: its node's number."""
    model_a, model_b, base = models(graph)
    inputs = {"a": model_a, "b": model_b, "base": base, "iterations": 60, "ties": "sum", "seed": 11}
    [merged] = graph.put("daremerge.merge.dare", ["MODEL"], inputs)
    graph.add("PreviewAny", source=merged)
    return str(merged.node)


def test_cancel_ends_a_merge_at_once_and_the_next_one_works(client: Client, server: Server) -> None:
    graph = Graph()
    node = long_merge(graph)
    asked: list[float] = []

    def cancel(event: Event) -> None:
        if event.kind == "progress" and str(event.data["node"]) == node and not asked:
            asked.append(time.monotonic())
            client.interrupt()

    run = client.run(graph.api(), on_event=cancel)
    assert asked, "the merge showed no progress"
    assert run.end.kind == "execution_interrupted"
    assert run.end.data["node_id"] == node
    # On a machine that does nothing else it is a few hundredths of a second.
    assert time.monotonic() - asked[0] < 5
    assert not list((server.folder / "temp").glob("daremerge-*"))

    again = Graph()
    model_a, model_b, _ = models(again)
    [merged] = again.put("daremerge.merge.lerp", ["MODEL"], {"a": model_a, "b": model_b, "ratio": 0.4})
    again.add("PreviewAny", source=merged)
    client.succeed(again.api())


def test_progress_is_the_nodes_own_and_grows(client: Client) -> None:
    graph = Graph()
    model_a, model_b, _ = models(graph)
    inputs = {"a": model_a, "b": model_b, "iterations": 6, "ties": "sum", "seed": 12}
    [merged] = graph.put("daremerge.merge.dare", ["MODEL"], inputs)
    graph.add("PreviewAny", source=merged)
    run = client.succeed(graph.api())
    seen = [one for one in run.of_kind("progress") if str(one["node"]) == str(merged.node)]
    assert len(seen) > 3
    assert [one["value"] for one in seen] == sorted(one["value"] for one in seen)
    assert seen[-1]["value"] == seen[-1]["max"]


def test_errors_say_what_and_what_to_do(client: Client) -> None:
    graph = Graph()
    model_a, model_b, _ = models(graph)
    [merged] = graph.put("daremerge.merge.lerp", ["MODEL"], {"a": model_a, "b": model_b, "include": "*.atn2.*"})
    graph.add("PreviewAny", source=merged)
    said = client.fail(graph.api())
    assert said.startswith("daremerge.merge.lerp: ")
    assert "'*.atn2.*'" in said
    assert "attn2" in said  # names like it
    assert "--" not in said


def test_an_error_is_not_called_by_a_path(client: Client, server: Server) -> None:
    graph = Graph()
    model_a, *_ = models(graph)
    [mask] = graph.put("daremerge.mask.random", ["MODEL_MASK"], {"model": model_a, "probability": 0.5})
    [edited] = graph.put("daremerge.mask.edit", ["MODEL_MASK"], {"mask": mask, "include": "nothing.like.this"})
    graph.put("daremerge.report.mask", ["STRING", "IMAGE"], {"mask": edited})
    run = client.run(graph.api())
    assert run.error is not None
    assert run.error["exception_type"] == "daremerge.Stopped"
    assert run.error["node_id"] == str(edited.node)  # the node that is wrong, not the one that uses its mask


def test_the_log_has_a_line_for_a_merge(client: Client, server: Server) -> None:
    graph = Graph()
    model_a, model_b, _ = models(graph)
    [merged] = graph.put("daremerge.merge.lerp", ["MODEL"], {"a": model_a, "b": model_b, "ratio": 0.123})
    graph.add("PreviewAny", source=merged)
    client.succeed(Graph([graph.nodes[0], graph.nodes[1]]).api() | graph.api())
    before = server.log().count("\n")
    changed = graph.api()
    changed[str(merged.node)]["inputs"]["ratio"] = 0.321
    client.succeed(changed)
    said = server.log().splitlines()[before:]
    assert [line for line in said if not line.startswith(("got prompt", "Prompt executed"))] == [
        line for line in said if line.startswith("daremerge: merge.lerp: 682 tensors, ")
    ]
    assert sum(line.startswith("daremerge:") for line in said) == 1
