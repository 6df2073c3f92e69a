"""Configurations by name: ``configs/<group>/<name>.yaml`` over the schema of base/config.py, composed by Hydra.

    recipe = load_recipe("convnext_xlarge", ["train.lr=5e-5", "augment=light"])

The only module that imports Hydra and OmegaConf. An unknown key is fatal and names its nearest neighbour.
"""

import re
from dataclasses import fields, is_dataclass
from typing import Any

from liveness.base.config import Augment, Data, Ensemble, FramePlan, Recipe, nearest
from liveness.base.errors import UserError
from liveness.base.experiments import AdaptPlan, ComparedRows, SearchSpace, check_space
from liveness.base.files import CONFIGS, prepared_sets
from liveness.base.validity import check, require

SCHEMAS = {
    "recipe": Recipe,
    "data": Data,
    "ensemble": Ensemble,
    "compare": ComparedRows,
    "tune": SearchSpace,
    "adapt": AdaptPlan,
}


def names(group: str) -> list[str]:
    """The configurations that exist in a group."""
    return sorted(p.stem for p in (CONFIGS / group).glob("*.yaml"))


def known_keys(schema: Any, prefix: str = "") -> list[str]:
    """Every dotted key of a schema, for the hint beside an unknown one."""
    keys = []
    for item in fields(schema):
        keys.append(prefix + item.name)
        if is_dataclass(item.type):
            keys += known_keys(item.type, f"{prefix}{item.name}.")
    return keys


def load_recipe(name: str, overrides: list[str] | tuple[str, ...] = ()) -> Recipe:
    recipe = _load("recipe", name, list(overrides))
    check(recipe, f"recipe {recipe.name}")
    return recipe


def load_data(name: str, overrides: list[str] | tuple[str, ...] = ()) -> Data:
    """The preparation of set ``name``: its own file, else default.yaml under that name."""
    data = _load("data", name if name in names("data") else "default", list(overrides))
    data.name = name
    check(data, f"data {name}")
    return data


def load_ensemble(name: str, overrides: list[str] | tuple[str, ...] = ()) -> Ensemble:
    ensemble = _load("ensemble", name, list(overrides))
    check_ensemble(ensemble)
    return ensemble


def load_rows(name: str) -> ComparedRows:
    """configs/compare/<name>.yaml; a UserError where a row's recipe is not in configs/recipe."""
    found, recipes = _load("compare", name, []), names("recipe")
    require(found.rows, f"compare {name}: rows is empty; expected a list of recipe, name, overrides")
    for row in found.rows:
        require(
            row.recipe in recipes,
            f"compare {name}: no recipe {row.recipe!r} in configs/recipe{nearest(row.recipe, recipes)}",
        )
        require(row.name or not row.overrides, f"compare {name}: {row.recipe} with overrides needs a name of its own")
    return found


def load_space(name: str) -> SearchSpace:
    space = _load("tune", name, [])
    check(space, f"tune {name}")
    check_space(space, f"tune {name}")
    return space


def load_adapt_plan(name: str = "default", overrides: list[str] | tuple[str, ...] = ()) -> AdaptPlan:
    plan = _load("adapt", name, list(overrides))
    check(plan, f"adapt {name}")
    return plan


def check_ensemble(ensemble: Ensemble) -> None:
    """A UserError where a value is out of its bounds or a member's recipe is not in configs/recipe."""
    where, recipes = f"ensemble {ensemble.name}", names("recipe")
    check(ensemble, where)
    for member in ensemble.members:
        require(
            member.soup or member.recipe in recipes,
            f"{where}: no recipe {member.recipe!r} in configs/recipe{nearest(member.recipe, recipes)}",
        )


def from_dict(schema: type, values: dict, where: str) -> Any:
    """Rebuild a dataclass from ``to_dict``'s form; unknown or missing-typed keys are a UserError."""
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    try:
        return OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(schema), values))
    except OmegaConfBaseException as error:
        raise UserError(f"{where}: {_lines(error)[0]}") from error


def data_from_dict(values: dict, where: str) -> Data:
    """A preparation's configuration in ``to_dict``'s form, checked as one from configs/data is."""
    data = from_dict(Data, values, where)
    check(data, where)
    return data


def _load(group: str, name: str, overrides: list[str]) -> Any:
    """Compose configs/<group>/<name>.yaml over its schema with Hydra."""
    import yaml
    from hydra import compose, initialize_config_dir
    from hydra.core.config_store import ConfigStore
    from hydra.core.global_hydra import GlobalHydra
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    if name not in names(group):
        a_set = ""
        if group == "ensemble" and name in prepared_sets():
            a_set = f"; {name} is a prepared set: DATA={name} bash train.sh ENSEMBLE"
        raise UserError(
            f"no {group} {name!r} in configs/{group}: there are {', '.join(names(group))}"
            f"{nearest(name, names(group))}{a_set}"
        )
    store = ConfigStore.instance()
    for schema_name, schema in SCHEMAS.items():
        store.store(name=f"{schema_name}_schema", node=schema)
    store.store(group="augment", name="augment_schema", node=Augment)
    store.store(group="frames", name="frames_schema", node=FramePlan)
    for text in overrides:
        if "=" not in text or not re.match(r"[A-Za-z]", text):
            raise UserError(f"override {text!r}: expected key=value, for example train.lr=5e-5")
    # model.kwargs is an open mapping: new keys are welcome there, and only there.
    overrides = ["++" + text if text.startswith("model.kwargs.") else text for text in overrides]
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(config_dir=str(CONFIGS), version_base="1.3"):
            composed = compose(config_name=f"{group}/{name}", overrides=overrides)
        config = OmegaConf.to_object(composed)
    except (HydraException, OmegaConfBaseException) as error:
        raise UserError(_explain(error, group, name)) from error
    except yaml.YAMLError as error:
        raise UserError(f"configs/{group}/{name}.yaml: not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(config, SCHEMAS[group]):
        raise UserError(
            f"configs/{group}/{name}.yaml: expected '# @package _global_' as its first line, and under defaults: "
            f"/{group}_schema (or another {group})"
        )
    return config


def _lines(error: BaseException | None) -> list[str]:
    """The text lines of an error and of its causes, outermost first."""
    lines = []
    while error is not None:
        lines += [line.strip() for line in str(error).splitlines() if line.strip()]
        error = error.__cause__ or error.__context__
    return lines or ["unreadable"]


def _explain(error: BaseException, group: str, name: str) -> str:
    """One line for a composition that failed, with the nearest known key or choice."""
    lines = _lines(error)
    text = "\n".join(lines)
    choice = re.search(r"Could not find '(\w+)/([^']+)'", text)
    if choice and choice.group(1) in ("augment", "frames"):
        options = names(choice.group(1))
        return f"{group} {name}: no {choice.group(1)} {choice.group(2)!r}: there are {', '.join(options)}"
    if "LexerNoViableAlt" in text:
        asked = text.rsplit("LexerNoViableAltException: ", 1)[-1].splitlines()[0]
        before, _, value = asked.partition("=")
        return f"{group} {name}: cannot read {asked!r}; put the value in double quotes: '{before}=\"{value}\"'"
    full = re.search(r"full_key: (\S+)", text)
    key = re.search(r"[Cc]ould not override '([^']+)'", text) or re.search(r"Key '([^']+)'", text)
    if key and ("in struct" in text or "not in '" in text):
        asked = full.group(1) if full else key.group(1)
        return f"{group} {name}: unknown key {asked!r}{nearest(asked, known_keys(SCHEMAS[group]))}"
    detail = next((line for line in lines if line.startswith(("Value ", "Cannot "))), lines[0])
    return f"{group} {name}: {full.group(1) + ': ' if full else ''}{detail}"
