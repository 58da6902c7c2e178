"""A node for every installed component, made from its fields: a plugin's method appears with no word of it here."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from comfy_api.latest import io, ui

from daremerge_core import Catalog, LoraTool, Reporter
from daremerge_core.components import Component, Port, TensorComponent, ports
from daremerge_core.recipe import kind_of

from .attach import attached
from .graph import Source, Step, Value
from .made import asleep, made_of, remember
from .node import Call, Node
from .pictures import as_image, as_text
from .running import Keep, Stopped, compute, explained, report, report_of_merge
from .values import LayerGradient, Lora, ModelMask, gradient_value, lora_value, mask_value
from .widgets import GRADIENT, LORA, MASK, slot_names, sockets, widgets

__all__ = ["KEEP", "generated", "makes_a_model", "merged_output", "report_output", "report_outputs", "step_of"]

_WORDS = {
    "merge": "Merge",
    "edit": "Edit",
    "mask": "Mask",
    "gradient": "Gradient",
    "lora": "LoRA",
    "report": "Report",
}

KEEP = io.Combo.Input(
    "keep_in",
    options=["auto", "memory", "disk"],
    default="auto",
    optional=True,
    tooltip="Where the merged weights are kept: in memory, or on disk in ComfyUI's temp folder, mapped into memory as "
    "needed. Auto takes the disk where they would fill more than half of the free memory. The result is the same.",
)


def generated(catalog: Catalog) -> Iterator[Node]:
    """A node for each component that is a step; for merges and edits a second one for CLIP."""
    for kind in _WORDS:
        for cls in catalog.all(kind):
            if makes_a_model(cls):
                assert issubclass(cls, TensorComponent)
                yield _patching(cls, catalog, "MODEL")
                yield _patching(cls, catalog, "CLIP")
            else:
                yield _other(cls, catalog)


def makes_a_model(cls: type[Component]) -> bool:
    """Whether it is a merge or an edit: a MODEL or CLIP in, and the same kind out."""
    return kind_of(cls) == "model" and not issubclass(cls, LoraTool)


_SPELLED = {"dare": "DARE", "della": "DELLA", "lora": "LoRA", "mbw": "MBW", "svd": "SVD", "ties": "TIES"}


def _title(cls: type[Component]) -> str:
    words = (_SPELLED.get(word, word.capitalize()) for word in cls.name.split("-"))
    return f"{_WORDS[cls.kind]}: {' '.join(words)}"


def _description(cls: type[Component]) -> str:
    paragraphs = (cls.__doc__ or "").strip().replace("``", "").split("\n\n")
    return "\n\n".join(" ".join(part.split()) for part in paragraphs)


# --- what a node gives the graph -----------------------------------------------------------------------------


def step_of(cls: type[Component], catalog: Catalog, call: Call) -> Step:
    """The step that a node's inputs describe."""
    options: dict[str, Any] = {}
    with explained():
        for widget in widgets(cls, catalog):
            given = call.get(widget.field)
            value = None if given is None else widget.read(given)
            if value is not None:
                options[widget.field] = value
        inputs: dict[str, Any] = {}
        for name, port in ports(cls).items():
            word = cls.model_fields[name].alias or name
            if port.many:
                slots = [slot for slot in slot_names(word) if call.get(slot) is not None]
                if slots or cls.model_fields[name].is_required():
                    inputs[word] = [_leaf(port, call, slot) for slot in slots]
            elif call.get(word) is not None:
                inputs[word] = _leaf(port, call, word)
    return Step(f"{cls.kind}.{cls.name}", options, inputs)


def _leaf(port: Port, call: Call, name: str) -> Value:
    value = call[name]
    if port.kind == "mask":
        return mask_value(value)
    if port.kind == "gradient":
        return gradient_value(value)
    return lora_value(value) if port.aside else Source(value, call.origin(name))


# --- merges and edits: a MODEL or CLIP in, the same kind out ------------------------------------------------------


def _patching(cls: type[TensorComponent], catalog: Catalog, socket: str) -> Node:
    kind: Any = io.Model if socket == "MODEL" else io.Clip
    anchor = cls.anchor_field()
    first = slot_names(anchor)[0] if ports(cls)[anchor].many else anchor
    patched = "the base" if anchor == "base" else "the first model"

    def inputs() -> Sequence[io.Input]:
        return [*sockets(cls, partial(_types, [kind])), *(one.input for one in widgets(cls, catalog)), KEEP]

    def run(call: Call) -> Sequence[Any]:
        step = step_of(cls, catalog, call)
        if any(port.aside for port in ports(cls).values()):  # a LoRA may be for parts that are not here
            step = replace(step, options={**step.options, "parts": ["clip" if socket == "CLIP" else "unet"]})
        return [merged_output(call[first], step, call.get("keep_in", "auto"))]

    return Node(
        id=f"daremerge.{'clip.' if socket == 'CLIP' else ''}{cls.kind}.{cls.name}",
        title=_title(cls) + (" (CLIP)" if socket == "CLIP" else ""),
        category=f"{'clip' if socket == 'CLIP' else 'model'}/{cls.kind}",
        description=_description(cls),
        inputs=inputs,
        outputs=[kind.Output(display_name=socket, tooltip=f"The result, as a patch on {patched}.")],
        run=run,
    )


def merged_output(anchor: Any, step: Step, keep: Keep) -> Any:
    """The anchor MODEL or CLIP with what the step makes of it, and the memory of how."""
    computed = compute(step, keep=keep)
    return remember(attached(anchor, computed.tensors), step, computed.summary)


# --- masks, gradients, LoRA tools, reports ---------------------------------------------------------------------------


def _other(cls: type[Component], catalog: Catalog) -> Node:
    outputs, answer = _result(cls)

    def inputs() -> Sequence[io.Input]:
        return [*sockets(cls, partial(_types, [io.Model, io.Clip])), *(one.input for one in widgets(cls, catalog))]

    def run(call: Call) -> Any:
        if any(port.kind == "recipe" for port in ports(cls).values()):
            return _report_of_merge(cls, catalog, call)
        return answer(step_of(cls, catalog, call))

    return Node(
        id=f"daremerge.{cls.kind}.{cls.name}",
        title=_title(cls),
        category=cls.kind,
        description=_description(cls),
        inputs=inputs,
        outputs=outputs,
        run=run,
        is_output=issubclass(cls, Reporter),
    )


def _types(models: list[Any], port: Port) -> list[Any]:
    if port.kind == "mask":
        return [MASK]
    if port.kind == "gradient":
        return [GRADIENT]
    return [LORA] if port.aside else models


def _result(cls: type[Component]) -> tuple[list[io.Output], Callable[[Step], Any]]:
    kind = kind_of(cls)
    if kind == "mask":
        out = MASK.Output(display_name="MODEL_MASK", tooltip="Which weights' elements may change; computed when used.")
        return [out], lambda step: [_checked_mask(step)]
    if kind == "gradient":
        out = GRADIENT.Output(display_name="LAYER_GRADIENT", tooltip="A ratio for each layer: 1 keeps A, 0 takes B.")
        return [out], lambda step: [LayerGradient(step)]
    if issubclass(cls, LoraTool):
        out = LORA.Output(display_name="LORA_MODEL", tooltip="The LoRA, for nodes that apply or save one.")
        return [out], lambda step: [_lora(step)]
    return report_outputs(), lambda step: report_output(report(step))


def report_outputs() -> list[io.Output]:
    """Text and picture."""
    return [
        io.String.Output(display_name="STRING", tooltip="The report as text."),
        io.Image.Output(display_name="IMAGE", tooltip="The report's pictures, one below the other."),
    ]


def report_output(found: Any, *, shown: bool = True) -> io.NodeOutput:
    """Text and picture, and both on the node itself where it is ``shown``."""
    text, image = as_text(found), as_image(found)
    if not shown:
        return io.NodeOutput(text, image)
    return io.NodeOutput(text, image, ui={**ui.PreviewImage(image).as_dict(), "text": (text,)})


def _checked_mask(step: Step) -> ModelMask:
    """The mask; what headers show to be wrong is said by the node that made it, not by the one that uses it."""
    from .running import value_of

    value_of(step)
    return ModelMask(step)


def _lora(step: Step) -> Lora:
    computed = compute(step, keep="memory", changed_only=False)
    return Lora(computed.tensors, computed.metadata, made=asleep(step))


def _report_of_merge(cls: type[Component], catalog: Catalog, call: Call) -> io.NodeOutput:
    port = next(name for name, port in ports(cls).items() if port.kind == "recipe")
    made, patched = made_of(call[port])
    if made is None:
        raise Stopped(
            "this model was not merged here, so there is nothing to report\n"
            "Connect the output of a merge or edit node of this pack."
        )
    options = step_of(cls, catalog, Call({k: v for k, v in call.inputs.items() if k != port})).options
    found = report_of_merge(made.graph(), cls.name, options)
    if patched:
        note = "Other nodes have patched this model since; what follows is about the merge alone."
        found = replace(found, text=f"{note}\n\n{found.text}")
    return report_output(found)
