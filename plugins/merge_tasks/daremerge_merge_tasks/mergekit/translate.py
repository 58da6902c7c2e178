"""From a mergekit configuration to a recipe. No file is opened.

What differs from mergekit, by nature rather than by choice of options:

* ``rescale``: mergekit scales what is kept to the L1 norm that the tensor had; here it is divided by the density, the
  probability of keeping. Both agree in expectation, up to sampling noise; dividing by the density is unbiased.
* Random masks (dare, della) come from daremerge's own generator: the same seed, the same bytes, but not mergekit's.
* Counts of kept elements are rounded, where mergekit cuts off: at most one element of a task vector's tensor.
* ``slerp`` is the same: each tensor is one vector, and a line where |cos θ| > 0.9995.
* ``nuslerp`` and ``model_stock`` by rows: a row is one of the matrix (out, rest), mergekit's the last dimension. They
  differ for convolutions alone. ``nuslerp_row_wise`` normalises along dimension 0, so its vectors are columns here.
* ``model_stock`` never goes away from the models: a negative mean cosine counts as 0 here.
* Everything is computed in float32, whatever ``dtype`` says; it is the storage dtype where ``out_dtype`` says nothing.
* A filter that fits no tensor is an error here, as with every selector.
* ``tokenizer_source: base`` keeps the base's vocabulary, as a merge does here anyway; mergekit also finds the same
  token in another row. Vocabularies of different sizes are an error, or merged in common rows with ``on_mismatch``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from daremerge_core.errors import RecipeError, nearest
from daremerge_core.printable import shortened

from .config import Config, Input, read
from .gradients import Steps
from .settings import Setting

__all__ = ["METHODS", "is_mergekit", "to_recipe"]

Options = dict[str, Any]

IGNORED = ("int8_mask",)
"""Parameters without an effect on the result, accepted for every method."""


def is_mergekit(data: Any) -> bool:
    """Whether plain data is a mergekit configuration rather than a recipe."""
    return isinstance(data, Mapping) and "merge_method" in data


def to_recipe(data: Mapping[str, Any], *, source: str) -> Options:
    """The recipe, as plain data, that does what the configuration asks for.

    Args:
        source: what errors call the configuration, for example its file's name.

    Raises:
        RecipeError: naming the field that is not supported.
    """
    config = read(data, source=source)
    method = METHODS.get(config.method)
    if method is None:
        raise RecipeError(
            f"{source}: merge_method {shortened(config.method)} is not supported.{nearest(config.method, METHODS)}",
            hint=f"Supported: {', '.join(METHODS)}.",
        )
    _check_parameters(config, method)
    _check_models(config, method)
    anchor = config.base or config.inputs[0]
    taken = frozenset({*(one.name for one in config.inputs), "merged"})
    steps = Steps(source=source, model=anchor.name, taken=taken)
    merged = method.translate(config, steps)
    output: Options = {"step": "merged"}
    if config.dtype is not None:
        output["dtype"] = config.dtype
    base_first = sorted(config.inputs, key=lambda one: one is not config.base)
    models = {one.name: one.path for one in base_first}
    return {"models": models, "steps": {**steps.found, "merged": merged}, "output": output}


class Method:
    """One of mergekit's methods: what it may be given, and how it is said here."""

    def __init__(
        self,
        translate: Callable[[Config, Steps], Options],
        *,
        shared: str = "",
        by_model: str = "",
        base: bool | None = None,
        least: int = 1,
        most: int | None = None,
    ) -> None:
        """
        Args:
            shared: names of parameters of the whole merge.
            by_model: names of parameters that each model may have.
            base: whether a base is needed (True), may be given (None) or is one more model (False).
            least: so many models at least, not counting a base unless it is one more model.
            most: so many at most.
        """
        self.translate = translate
        self.shared, self.by_model = shared.split(), by_model.split()
        self.base, self.least, self.most = base, least, most


# --- what may be given --------------------------------------------------------------------------------


def _check_parameters(config: Config, method: Method) -> None:
    """Refuse parameters that mergekit would not look at, too: they would change nothing, unseen."""
    everywhere = [*method.shared, *method.by_model, *IGNORED]
    for name in config.parameters:
        _check_known(name, everywhere, config, f"{config.source}: parameters")
    for one in config.inputs:
        for name in one.parameters:
            where = f"{config.source}: {one.where}.parameters"
            _check_known(name, everywhere, config, where)
            if name in method.shared:
                raise RecipeError(
                    f"{where}.{name}: {name} is not a parameter of a single model",
                    hint=f"Write it under `parameters` at the end: mergekit's {config.method} would ignore it here.",
                )


def _check_known(name: str, known: list[str], config: Config, where: str) -> None:
    if name not in known:
        has = [one for one in known if one not in IGNORED]
        raise RecipeError(
            f"{where}: {config.method} has no parameter {shortened(name)}.{nearest(str(name), known)}",
            hint=f"It has {', '.join(has)}." if has else "It has none.",
        )


def _check_models(config: Config, method: Method) -> None:
    if method.base and config.base is None:
        raise RecipeError(f"{config.source}: base_model is missing", hint=f"{config.method} needs it.")
    count = len(config.inputs if method.base is False else config.tuned)
    if count < method.least or (method.most is not None and count > method.most):
        wanted = f"{method.least}" if method.least == method.most else f"at least {method.least}"
        models = "model" if method.least == 1 else "models"
        beside = " beside the base" if config.base is not None and method.base is not False else ""
        raise RecipeError(f"{config.source}: {config.method} needs {wanted} {models}{beside}, and {count} are given")


# --- what the methods share -----------------------------------------------------------------------------


def _names(inputs: tuple[Input, ...]) -> list[str]:
    return [one.name for one in inputs]


def _complement(number: float) -> float:
    """1 − number, without the noise of its last digit."""
    return round(1.0 - number, 15)


def _one_or_each(numbers: list[float]) -> float | list[float]:
    return numbers[0] if len(set(numbers)) == 1 else numbers


def _ratio(setting: Setting, name: str, steps: Steps) -> Options:
    """A step's own strength: one ratio, or a gradient."""
    if setting.constant is None:
        return {"gradient": steps.gradient(name, setting)}
    return {"ratio": setting.constant}


def _weights(inputs: tuple[Input, ...], settings: list[Setting], steps: Steps) -> Options:
    """``weights``; where one of them varies, 1 for that model, and gradients whose ratio is 1 − weight."""
    constants = [setting.constant for setting in settings]
    options: Options = {"weights": _one_or_each([1.0 if weight is None else weight for weight in constants])}
    if None in constants:
        left_out = [
            (setting if constant is None else Setting.of(1.0)).map(_complement)
            for setting, constant in zip(settings, constants, strict=True)
        ]
        named = zip(inputs, left_out, strict=True)
        options["gradients"] = [steps.gradient(f"weight_{one.name}", ratio) for one, ratio in named]
    return options


def _weight_settings(config: Config, inputs: tuple[Input, ...]) -> list[Setting]:
    return [config.setting("weight", model=one) for one in inputs]


def _normalize(normalize: bool) -> str:
    return "weights" if normalize else "none"


# --- task vectors -----------------------------------------------------------------------------------------


def _tasks(op: str, *, normalize: bool, **options: Any) -> Callable[[Config, Steps], Options]:
    """A merge of task vectors. ``normalize`` is mergekit's default; ``options`` are fixed."""

    def translate(config: Config, steps: Steps) -> Options:
        assert config.base is not None
        settings = _weight_settings(config, config.tuned)
        mean = config.flag("normalize", normalize)
        if mean and any(weight < 0 for setting in settings for weight in setting.numbers()):
            raise RecipeError(
                f"{config.source}: {config.method} with normalize and a negative weight is not supported",
                hint="Write `normalize: false`, and weights that are as large as they shall count.",
            )
        models: Options = {"models": _names(config.tuned), "base": config.base.name}
        weights = _weights(config.tuned, settings, steps)
        return {"op": op, **models, **weights, **options, "normalize": _normalize(mean), **_lambda(config, steps)}

    return translate


def _lambda(config: Config, steps: Steps) -> Options:
    """λ; where it varies, a gradient over the step: 1 − λ of the base is kept."""
    setting = config.setting("lambda", 1.0)
    if setting.constant is not None:
        return {"lambda": setting.constant}
    return {"lambda": 1.0, **_ratio(setting.map(_complement), "lambda", steps)}


def _sparse(
    op: str,
    *,
    normalize: bool,
    more: Callable[[Config], Options] = lambda _: {},
    **options: Any,
) -> Callable[[Config, Steps], Options]:
    """A merge of task vectors that are thinned out first. ``more`` are the method's own options."""
    tasks = _tasks(op, normalize=normalize, **options)

    def translate(config: Config, steps: Steps) -> Options:
        return {**tasks(config, steps), **_density(config, steps), **more(config)}

    return translate


def _density(config: Config, steps: Steps) -> Options:
    """``density``; where one of them varies, the largest of that model, and gradients whose ratio is the density."""
    settings = [config.setting("density", 1.0, model=one) for one in config.tuned]
    wrong = [share for setting in settings for share in setting.numbers() if not 0.0 <= share <= 1.0]
    if wrong:
        raise RecipeError(f"{config.source}: density {wrong[0]:g} is outside 0 to 1", hint="It is the share kept.")
    options: Options = {"density": _one_or_each([max(setting.numbers()) for setting in settings])}
    if any(setting.constant is None for setting in settings):
        named = zip(config.tuned, settings, strict=True)
        options["density_gradients"] = [steps.gradient(f"density_{one.name}", setting) for one, setting in named]
    return options


def _rescaled_at_random(config: Config) -> Options:
    return {"rescale": config.flag("rescale", True), "seed": 0}


def _not_rescaled(config: Config) -> Options:
    if config.flag("rescale", False):
        raise RecipeError(
            f"{config.source}: rescale is not supported in {config.method}",
            hint="It divides by the chance of being kept, which only dare and della have. Write `rescale: false`.",
        )
    return {}


def _della(config: Config) -> Options:
    """mergekit's epsilon is half of the window that ours is."""
    return {"epsilon": round(2.0 * config.shared("epsilon", 0.15), 15), **_rescaled_at_random(config)}


def _breadcrumbs(config: Config) -> Options:
    return {"gamma": config.shared("gamma", 0.01), **_not_rescaled(config)}


# --- other methods ---------------------------------------------------------------------------------------------


def _linear(config: Config, steps: Steps) -> Options:
    """The weighted mean. Ours takes no negative weights, so with such the division is done here."""
    settings, normalize = _weight_settings(config, config.inputs), config.flag("normalize", True)
    weights = [setting.constant for setting in settings]
    numbers = [weight for weight in weights if weight is not None]
    if normalize and len(numbers) == len(weights) and min(numbers) < 0:
        whole = sum(numbers)
        if abs(whole) < 1e-6:
            raise RecipeError(f"{config.source}: the weights add up to 0", hint="There is no mean: change a weight.")
        settings, normalize = [Setting.of(weight / whole) for weight in numbers], False
    models = {"models": _names(config.inputs)}
    return {
        "op": "merge.linear",
        **models,
        **_weights(config.inputs, settings, steps),
        "normalize": _normalize(normalize),
    }


def _slerp(config: Config, steps: Steps) -> Options:
    """mergekit's t is 0 at the base, where our ratio is 1."""
    assert config.base is not None
    setting = config.setting("t").map(_complement)
    return {"op": "merge.slerp", "a": config.base.name, "b": config.tuned[0].name, **_ratio(setting, "t", steps)}


def _nuslerp(config: Config, steps: Steps) -> Options:
    """The first weight's share of both is the ratio. Where they vary, gradients are added and divided."""
    a, b = config.tuned
    models: Options = {"a": a.name, "b": b.name}
    if config.base is not None:
        models["base"] = config.base.name
    per = "tensor"
    if not config.flag("nuslerp_flatten", True):
        per = "column" if config.flag("nuslerp_row_wise", False) else "row"
    strength = _first_share(config, steps)
    return {"op": "merge.nuslerp", **models, **strength, "per": per}


def _first_share(config: Config, steps: Steps) -> Options:
    first, second = _weight_settings(config, config.tuned)
    if first.constant is not None and second.constant is not None:
        whole = first.constant + second.constant
        return {"ratio": 0.5 if abs(whole) < 1e-6 else _complement(second.constant / whole)}
    named = zip(config.tuned, (first, second), strict=True)
    weights = [steps.gradient(f"weight_{one.name}", setting) for one, setting in named]
    whole_step = steps.add("weights", {"op": "gradient.add", "gradients": weights, "outside": "allow"})
    share: Options = {"op": "gradient.divide", "gradients": [weights[0], whole_step]}
    if min(*first.numbers(), *second.numbers()) < 0:
        share["outside"] = "allow"
    return {"gradient": steps.add("share", share)}


def _multislerp(config: Config, steps: Steps) -> Options:
    models: Options = {"models": _names(config.tuned)}
    if config.base is not None:
        models["base"] = config.base.name
    weights = _weights(config.tuned, _weight_settings(config, config.tuned), steps)
    normalize = _normalize(config.flag("normalize_weights", True))
    return {"op": "merge.multislerp", **models, **weights, "normalize": normalize}


def _karcher(config: Config, steps: Steps) -> Options:
    options = {"iterations": config.whole("max_iter", 10), "tolerance": config.number("tol", 1e-5)}
    return {"op": "merge.karcher", "models": _names(config.inputs), **options}


def _model_stock(config: Config, steps: Steps) -> Options:
    assert config.base is not None
    per = "row" if config.flag("filter_wise", False) else "tensor"
    return {"op": "merge.model-stock", "models": _names(config.tuned), "base": config.base.name, "per": per}


def _sce(config: Config, steps: Steps) -> Options:
    assert config.base is not None
    models: Options = {"models": _names(config.tuned), "base": config.base.name}
    return {"op": "merge.sce", **models, "density": config.number("select_topk", 1.0)}


def _nearswap(config: Config, steps: Steps) -> Options:
    assert config.base is not None
    config.setting("t")  # it has no default: say so where it is missing
    distance = config.number("t", 0.0)
    return {"op": "merge.nearswap", "a": config.base.name, "b": config.tuned[0].name, "distance": distance}


def _passthrough(config: Config, steps: Steps) -> Options:
    """A scale that varies is the ratio to which the model is kept, of a merge with itself times 0."""
    (model,) = config.inputs
    setting = config.setting("scale", 1.0, model=model)
    options: Options = {"op": "merge.passthrough", "models": [model.name]}
    if setting.constant is not None:
        return {**options, "scale": setting.constant}
    return {**options, "scale": 0.0, **_ratio(setting, "scale", steps)}


# --- the methods by name -----------------------------------------------------------------------------------


def _task_method(translate: Callable[[Config, Steps], Options], own: str = "") -> Method:
    """Density and rescale belong to all of them; task arithmetic thins out nothing, so there they do nothing."""
    return Method(translate, shared="normalize rescale lambda", by_model=f"weight density {own}", base=True)


_ELECTED = {"elect": "mass", "weighted": True}

METHODS: Mapping[str, Method] = {
    "linear": Method(_linear, shared="normalize", by_model="weight", base=False),
    "slerp": Method(_slerp, shared="t", base=True, most=1),
    "task_arithmetic": _task_method(_tasks("merge.task-arithmetic", normalize=False)),
    "ties": _task_method(_sparse("merge.ties", normalize=True, more=_not_rescaled, over="tensor", **_ELECTED)),
    "dare_ties": _task_method(_sparse("merge.dare-ties", normalize=False, more=_rescaled_at_random, **_ELECTED)),
    "dare_linear": _task_method(_sparse("merge.dare-linear", normalize=False, more=_rescaled_at_random)),
    "breadcrumbs": _task_method(_sparse("merge.breadcrumbs", normalize=False, more=_breadcrumbs), "gamma"),
    "breadcrumbs_ties": _task_method(
        _sparse("merge.breadcrumbs-ties", normalize=False, more=_breadcrumbs, **_ELECTED), "gamma"
    ),
    "della": _task_method(_sparse("merge.della", normalize=True, more=_della, **_ELECTED), "epsilon"),
    "della_linear": _task_method(_sparse("merge.della-linear", normalize=False, more=_della), "epsilon"),
    "model_stock": Method(_model_stock, shared="filter_wise", base=True, least=2),
    "sce": Method(_sce, shared="select_topk", base=True),
    "nuslerp": Method(
        _nuslerp, shared="nuslerp_flatten nuslerp_row_wise", by_model="weight", base=None, least=2, most=2
    ),
    "karcher": Method(_karcher, shared="max_iter tol", base=False),
    "multislerp": Method(_multislerp, shared="normalize_weights", by_model="weight", base=None),
    "nearswap": Method(_nearswap, shared="t", base=True, most=1),
    "passthrough": Method(_passthrough, by_model="scale", base=False, most=1),
}
