"""What a member (recipe + fold) is called, and where its files lie. Every such name is made and read here.

member_name("convnext_large", 0)           convnext_large_fold0, in file names and tables
recipe_fold("convnext_large", 0)           convnext_large:0, as people type it and configurations list it
"""

from pathlib import Path

from liveness.base.errors import UserError
from liveness.base.files import CONFIGS, plain_name, workspace


def member_name(recipe: str, fold: int) -> str:
    """``recipe_fold3``"""
    return f"{recipe}_fold{fold}"


def parse_member_name(name: str) -> tuple[str, int]:
    """(recipe, fold) of ``recipe_fold3``; a UserError for what is no member's name."""
    recipe, _, fold = name.rpartition("_fold")
    if not recipe or not fold.isdecimal():
        raise UserError(
            f"{name!r} is not the name of a member; expected RECIPE_foldK, for example convnext_large_fold0"
        )
    return recipe, int(fold)


def recipe_fold(recipe: str, fold: int) -> str:
    """``recipe:3``"""
    return f"{recipe}:{fold}"


def parse_recipe_fold(text: str, option: str = "--members") -> tuple[str, int]:
    """(recipe, fold) of ``recipe:3``, which a user gave as ``option``; a UserError for anything else."""
    recipe, _, fold = text.rpartition(":")
    if not recipe or not fold.isdecimal():
        raise UserError(f"{option} {text}: expected RECIPE:FOLD, for example convnext_large:0")
    return plain_name(recipe, option), int(fold)


def weights_path(data: str, recipe: str, fold: int) -> Path:
    """weights/<set>/<recipe>_fold<k>.safetensors"""
    return workspace() / "weights" / data / f"{member_name(recipe, fold)}.safetensors"


def species_path(weights: Path) -> Path:
    """species/ beside a member's file: the head that learned species beside it, under the same name."""
    return weights.parent / "species" / weights.name


def run_folder(data: str, recipe: str, fold: int) -> Path:
    """runs/<set>/<recipe>_fold<k>/"""
    return workspace() / "runs" / data / member_name(recipe, fold)


def operating_path(data: str, ensemble: str) -> Path:
    """weights/<set>/<ensemble>.json: calibration and thresholds, which evaluation leaves beside the weights."""
    return workspace() / "weights" / data / f"{ensemble}.json"


def exported_path(data: str, ensemble: str) -> Path:
    """weights/<set>/exported/<ensemble>/: where ``liveness export`` puts an ensemble if it is told no other place."""
    return workspace() / "weights" / data / "exported" / ensemble


def shipped_operating(data: str, ensemble: str) -> Path | None:
    """configs/operating/<ensemble>.json, what decides for an ensemble that was trained elsewhere and whose weights lie
    in a folder of its own name; None for all others, whose operating points evaluation makes."""
    path = CONFIGS / "operating" / f"{ensemble}.json"
    return path if data == ensemble and path.is_file() else None
