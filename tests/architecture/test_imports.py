"""Who may import whom, read from the imports themselves."""

from __future__ import annotations

import ast
import fnmatch
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "pixdex"

SPINE = {"errors", "spec", "types", "scores", "filters"}
IMAGES = {"encoders.images"}  # decoding belongs to the encoders; pictures are read with it
HOW = {"encoders.decoding"}  # the values that say how
RULES: dict[str, set[str]] = {
    "__init__": {"*"},
    "errors": set(),
    "_names": {"errors"},
    "spec": {"errors", "_names"},
    "types": {"filters"},  # in annotations; at run time it would be a circle
    "scores": {"spec"},
    "policy": {"errors"},
    "_plugins": {"errors"},
    "filters*": {"spec", "types", "errors"},  # and one another
    "evaluation*": {"types", "errors"},  # and one another
    "_eval_results": {"_eval_queries", "evaluation", "report", *SPINE},
    "_eval_queries": {
        "collection",
        "index",
        "encoders.port",
        "fields",
        "filters.meaning",
        "pictures",
        "report",
        "_progress",
        *SPINE,
    },
    "_eval_search": {"_eval_queries", "_progress", "collection", *SPINE},
    "_eval_running": {"_eval_queries", "_eval_results", "_eval_search", "_progress", "collection", "encoders.port"}
    | {"evaluation", "evaluation.metrics", "pictures", *SPINE},
    "evaluating": {"_eval_queries", "_eval_results", "_eval_running", "collection", "connectors", "encoders.port"}
    | {"_progress", "evaluation", "index", "pictures", *SPINE},
    "_plots": set(),
    "_eval_page": {"_eval_results", "_html", "_plots", "evaluation", "evaluation.statistics"},
    "_calibrating": {
        "_kept",
        "_eval_queries",
        "_originals",
        "_progress",
        "collection",
        "encoders.edits",
        "encoders.port",
        "fields",
        "pictures",
    }
    | {"rerankers.choosing", "rerankers.port", "rerankers.references", *HOW, *SPINE},
    "calibrating": {"_calibrating", "_eval_queries", "_progress", "evaluating", "evaluation", "evaluation.reliability"}
    | {"rerankers", "rerankers.calibrated", "rerankers.calibration", "rerankers.choosing", "rerankers.port", *SPINE},
    "_calibration_page": {"_html", "_plots", "calibrating", "evaluation", "evaluation.reliability"},
    "_inventory": {
        "collection",
        "connectors",
        "encoders",
        "encoders._hub",
        "encoders.compose",
        "encoders.port",
        "fields",
    }
    | {*SPINE},
    "_cli_*": {"*"},
    "_records": {"spec", "types", "errors", "_vectors"},
    "_vectors": {"spec", "types", "errors"},
    "_joined": {"connectors.port", *SPINE},
    "_limits": {"connectors.port", *SPINE},
    "_reading": {"connectors.port", "_records", "_vectors", *SPINE},
    "_altering": {"collection", "_records", *SPINE},
    "_identity": {"errors", "spec"},
    "_feeding": {"_altering", "collection", "policy", *SPINE},
    "collection": {
        "connectors.port",
        "_altering",
        "_feeding",
        "_identity",
        "_joined",
        "_limits",
        "_names",
        "_reading",
        "policy",
        "_records",
        *SPINE,
    },
    "adopting": {"collection", "connectors.port", "ingest", "pictures", "fields", "report", "policy", "encoders.port"}
    | {"_encoding", "_joined", "_vectors", "filters.meaning", *SPINE},
    "pictures": {"encoders.port", "report", *IMAGES, *SPINE},
    "fields": {*SPINE},
    "report": set(),
    "_crew": {"errors"},
    "_machine": set(),
    "_decoding": {"encoders.port", "errors", *HOW},
    "_encoding": {"_crew", "_decoding", "_machine", "pictures", "report", "encoders.port", *HOW, *SPINE},
    "fusion_weights": {"evaluation", "evaluation.metrics", "fusion", *SPINE},
    "_fusion_trials": {
        "_captions",
        "_eval_queries",
        "_progress",
        "collection",
        "fields",
        "fusion",
        "fusion_weights",
        *SPINE,
    },
    "fusion_fitting": {
        "_captions",
        "_fusion_trials",
        "_eval_queries",
        "_eval_running",
        "_progress",
        "fields",
        "fusion",
        "index",
    }
    | {"pictures", "fusion_weights", *SPINE},
    "_captions": {"_asking", "collection", "encoders", "encoders.port", "fields", "rerankers.port", *SPINE},
    "_hashing": {"_crew", "journal", "pictures", "report", *HOW, *SPINE},
    "ingest": {
        "_captions",
        "_encoding",
        "_feeding",
        "_hashing",
        "_records",
        "_twins",
        "collection",
        "fields",
        "journal",
        "pictures",
    }
    | {"report"}
    | {"encoders.port", *HOW, *SPINE},
    "_scratch": {"errors"},
    "_label_results": set(),
    "_label_sheet": {"_scratch", "sources.labels", *SPINE},
    "_label_finding": {"_label_results", "_label_sheet", "_progress", "_records", "collection", "pictures"}
    | {"sources.addresses", *SPINE},
    "labelling": {"_captions", "_label_finding", "_label_results", "_label_sheet", "_names", "_progress", "_records"}
    | {"_state", "collection", "evaluating", "fields", "index", "pictures", "sources.labels", *SPINE},
    "sources*": {
        "_scratch",
        "pictures",
        "fields",
        "vectors_file",
        "_names",
        "_records",
        *HOW,
        *IMAGES,
        *SPINE,
    },  # and one another
    "journal": {"_state", "report", "errors"},
    "_twins": {"_looking", "_sameness", "collection", "encoders.decoding", *SPINE},
    "jobs": {"_state", "_twins", "collection", "connectors.port", "dedup", "encoders.decoding", "fields", "journal"}
    | {"pictures", "report", *SPINE},
    "_syncing": {"_twins", "collection", "fields", "journal", "pictures", "report", "sources", "sources.folders"}
    | {"sources.addresses", *SPINE},
    "observing": {"doctor", "policy", "report", "errors"},
    "_linkage": set(),
    "_kept": {"collection", *SPINE},
    "alignment": {"encoders.port", "errors"},
    "_looking": {"_machine", "_originals", "alignment", "collection", "pictures", *HOW, *SPINE},
    "_sameness": {"_kept", "_looking", "alignment", "collection", "rerankers.port", "rerankers.references", *SPINE},
    "dedup": {"_linkage", "_looking", "_sameness", "collection", "encoders.decoding", "fields", *SPINE},
    "_doctor_probing": {"collection", "policy", *SPINE},
    "doctor": {"_doctor_probing", "_originals", "_vectors", "collection", "connectors", "connectors.address"}
    | {"connectors.port", "encoders", "encoders.decoding", "fields", "journal", "report", *SPINE},
    "_state": {"_plugins", "connectors", "connectors.address", "connectors.port", "errors", "policy"},
    "_facts": {"errors"},
    "_copy_job": {"_facts"},
    "_copy_shape": {"_records", "filters.meaning", *SPINE},
    "_copy_moving": {"_copy_job", "_copy_shape", "collection", "records_file", *SPINE},
    "_copy_census": {"_copy_moving", "_facts", "collection", *SPINE},
    "_copy_checks": {"_copy_census", "_copy_shape", "collection", *SPINE},
    "_passes": {"_copy_moving", "collection", "connectors.port", "policy", *SPINE},
    "_copy_until": {"errors"},
    "_copy_results": {"_copy_checks", "_copy_job", "collection", "connectors.port", "policy"},
    "_copy_running": {"_copy_census", "_copy_checks", "_copy_job", "_copy_moving", "_copy_results", "_copy_shape"}
    | {"_copy_until", "_names", "_passes", "collection", "connectors.port", "policy", *SPINE},
    "copying": {"_copy_census", "_copy_checks", "_copy_job", "_copy_moving", "_copy_results", "_copy_running"}
    | {
        "_copy_shape",
        "_copy_until",
        "_passes",
        "_state",
        "collection",
        "connectors",
        "connectors.address",
        "connectors.port",
        "policy",
    }
    | {"records_file", *SPINE},
    "_copy_page": {"_copy_checks", "_copy_results", "_html"},
    "_following": {"errors"},
    "_reindex_job": {"_facts", "errors"},
    "_reindex_making": {"_crew", "_encoding", "_originals", "_reindex_job", "collection", "encoders.compose"}
    | {"_machine", "encoders.port", "fields", "pictures", *HOW, *SPINE},
    "_reindex_moving": {
        "_copy_moving",
        "_copy_shape",
        "_feeding",
        "_limits",
        "_records",
        "_reindex_job",
        "_reindex_making",
    }
    | {"collection", *SPINE},
    "_reindex_results": {"_reindex_job", "evaluation"},
    "_reindex_comparing": {"_copy_moving", "_reindex_making", "_reindex_moving", "_reindex_results", "collection"}
    | {"_eval_queries", "evaluating", "fields", *SPINE},
    "_reindex_places": {
        "_passes",
        "_reindex_job",
        "_state",
        "collection",
        "connectors",
        "connectors.port",
        "fields",
        "policy",
    }
    | {*SPINE},
    "_reindex_running": {"_copy_moving", "_reindex_comparing", "_reindex_job", "_reindex_making", "_reindex_moving"}
    | {"_passes", "_reindex_places", "_reindex_results", "collection", "encoders.port", "fields", "reindexing", *SPINE},
    "reindexing": {
        "_copy_moving",
        "_encoders_of",
        "_feeding",
        "_names",
        "_reindex_job",
        "_reindex_making",
        "_reindex_moving",
    }
    | {"_passes", "_reindex_places", "_reindex_results", "_reindex_running", "_state", "collection", "encoders"}
    | {"encoders.port"}
    | {"fields", "policy", *HOW, *SPINE},
    "records_file": {"connectors._files", "connectors.port", "vectors_file", "_vectors_columns", *SPINE},
    "_vectors_columns": {"report", *SPINE},
    "vectors_file": {"_vectors_columns", "fields", "report", *SPINE},
    "transfer": {"index", "collection", "connectors", "encoders", "encoders.port", "fields", "policy", "pictures"}
    | {"report", "vectors_file", "_adding", "_names", "_progress", "_records", "_unfinished", *HOW, *SPINE},
    "_unfinished": {"connectors.pq", "connectors._files", "encoders.port", "fields", "report", "vectors_file", *SPINE},
    "fusion": {"filters", "types", "errors"},
    "_searching": {
        "_asking",
        "_captions",
        "collection",
        "encoders.port",
        "fields",
        "fusion",
        "rerankers.port",
        *HOW,
        *SPINE,
    }
    | {"_reranking", "rerankers.stages"},
    "_asking": {"_made_tokens", "collection", "encoders.port", "fields", "pictures", "rerankers.port", *HOW, *SPINE},
    "_originals": {"collection", "fields", "pictures", *HOW, *SPINE},
    "_made_tokens": {
        "_encoding",
        "_originals",
        "collection",
        "encoders.port",
        "fields",
        "pictures",
        "report",
        *HOW,
        *SPINE,
    },
    "_reranking": {
        "_kept",
        "_made_tokens",
        "collection",
        "encoders.port",
        "rerankers.port",
        "rerankers.stages",
        *HOW,
        *SPINE,
    },
    "_adding": {"sources.folders", "_progress", "collection", "pictures", "report", "sources", "_records", *SPINE},
    "_encoders_of": {"collection", "encoders", "encoders.port", "fields", *SPINE},
    "_holding": {"_adding", "_captions", "_encoders_of", "collection", "connectors.port", "encoders.port", "fields"}
    | {"policy", "sources", *SPINE},
    "_info": {"collection", "connectors.port", "fields", *SPINE},
    "_printing": {"_html", "adopting", "connectors.port", "demo", "fields", "pictures", "report", *SPINE},
    "_options": {"fusion", *HOW},
    "_shell": {"_printing", "index", "pictures", "report", "sources.addresses", "sources.folders", "transfer"}
    | {"vectors_file", *SPINE},
    "index": {"collection", "ingest", "report", "pictures", "fields", "encoders.port", "rerankers"}
    | {"rerankers.port", "connectors", "connectors.port", "policy", "sources", "_adding", "_encoders_of"}
    | {"rerankers.stages"}
    | {
        "_encoding",
        "_following",
        "_holding",
        "_info",
        "_names",
        "_progress",
        "_searching",
        "_syncing",
        "_captions",
        "explaining",
        "jobs",
        "fusion",
        *HOW,
        *SPINE,
    },
    "_aio_collection": {"_limiter", "collection", "connectors.port", "policy", *SPINE},
    "_aio_running": {"_limiter", "aio", "collection", "index"},
    "_aio_jobs": {"_aio_collection", "_aio_running", "_limiter", "_progress", "aio", "calibrating", "copying", "dedup"}
    | {"encoders.decoding", "encoders.port", "fields", "fusion", "fusion_fitting", "labelling", "pictures", "policy"}
    | {"reindexing", "rerankers.port", *SPINE},
    "aio": {
        "_aio_collection",
        "_aio_jobs",
        "_aio_running",
        "collection",
        "evaluating",
        "explaining",
        "fusion",
        "index",
        "jobs",
        "pictures",
        "report",
        "policy",
        "transfer",
        "_limiter",
        "_progress",
    }
    | {"connectors.port", "encoders.port", "rerankers.port", "rerankers.stages", *HOW, *SPINE},
    "_limiter": {"errors"},
    "_progress": {"report"},
    "_html": {"pictures", *IMAGES, *SPINE},
    "explaining": {"_asking", "_explain_page", "_originals", "collection", "encoders.port", "fields", "pictures"}
    | {"rerankers.calibrated", "rerankers.maxsim", "rerankers.port", "rerankers.references", *HOW, *IMAGES, *SPINE},
    "_explain_page": {"_heat", "_html", "explaining", *IMAGES},
    "_heat": set(),
    "demo": {"index", *SPINE},
    "cli": {"*"},
    "connectors": {"connectors.port", "connectors.address", "_plugins"},
    "connectors.port": {"spec", "types", "filters"},
    "connectors.address": {"errors"},
    "connectors.mirror": {
        "_state",
        "connectors",
        "connectors._mirror_missed",
        "connectors._mirror_shadow",
        "connectors.address",
    }
    | {"connectors.port", *SPINE},
    "encoders": {"encoders.port", "_plugins"},
    "encoders.port": {"spec", "types", "filters"},
    "rerankers": {"rerankers.references", "rerankers.stages"},
    "rerankers.choosing": {"evaluation.metrics", "evaluation.statistics", "rerankers.calibration", *SPINE},
    "rerankers.references": {"rerankers.port", "_plugins", "spec"},
    "rerankers.port": {"types", "filters", "encoders.port"},
    "testing*": {"*"},
    "training": {"training._loop", "training.heading", "training.pairing", "errors"},
    "training._library": {"errors"},
    "training.losses": {"training._library", "errors"},
    "training.sampling": {"errors"},
    "training.data": {"pictures", "sources", "sources.tables", *SPINE},
    "training.kernels": {"encoders.kernelmaps", "errors"},
    "training.fitting": {"encoders.heads", "encoders.kernelmaps", "training.losses", "training.sampling", "errors"},
    "training.choosing": {"encoders.heads", "encoders.kernelmaps", "encoders.tokens", "evaluation", "training.data"}
    | {"training.fitting"},
    "training.features": {"_progress", "collection", "connectors.pq", "encoders._digest", "encoders.compose"}
    | {"encoders.pooling", "encoders.port", "encoders.runtimes.cache", "fields", "ingest", "report", "training.data"}
    | {*HOW, *SPINE},
    "training.report": {"evaluation", "pictures", "errors", *IMAGES},
    "training.heading": {"_encoders_of", "_progress", "collection", "connectors", "encoders", "encoders.backbones"}
    | {"encoders.compose", "encoders.export", "encoders.kernelmaps", "encoders.port", "encoders.runtimes.network"}
    | {"encoders.tokens", "evaluation", "pictures", "report", "sources.addresses", "training.choosing"}
    | {"training.collected", "training.data", "training.features", "training.fitting", "training.kernels"}
    | {"training.losses", "training._workplace", "training.report", *HOW, *SPINE},
    "training.pairnets": {"errors"},
    "training.tokenbank": {"encoders.tokens", "training.augment", "errors"},
    "training.tokenviews": {"encoders._digest", "encoders.compose", "encoders.composition", "encoders.tokens"}
    | {"training._workplace", "training.reranking", "training.tokenbank", "spec", "errors"},
    "training.collected": {"collection", "fields", "pictures", *SPINE},
    "training.pairsources": {"_encoders_of", "collection", "connectors", "encoders.compose", "pictures"}
    | {"rerankers.maxsim", "sources.addresses", "training.collected", "training.data", "training.tokenviews", *SPINE},
    "training.lessons": {"evaluation", "training.data", "training.pairnets", "training.reranking", "training.tokenbank"}
    | {"training.tokenviews", "errors"},
    "training.pairing": {"encoders._digest", "encoders.compose", "rerankers.calibration", "rerankers.learned"}
    | {"training._device", "training._judging", "training._loop", "training._pictures", "training._workplace"}
    | {"training.calibrations"}
    | {"training.lessons", "training.pairfolder", "training.pairnets", "training.pairsources", "training.reranking"}
    | {"training.tokenbank", "training.tokenviews", "spec", "errors"},
    "training.reranking": {"training.pairnets", "training.tokenbank", "errors"}
    | {"training._batches", "training._device", "training._loop"},
    "training.calibrations": {"evaluation.reliability", "rerankers.choosing", "rerankers.learned", "errors"}
    | {"training.data", "training.mini", "training.pairfolder", "training.pairnets", "training.reranking"}
    | {"training.tokenviews"},
    "training.pairfolder": {"rerankers.learned", "training._workplace", "training.pairnets", "spec", "errors"},
    "training.rerankers": {"training._device", "training._loop", "training._workplace", "training.mini"}
    | {"training.pairing", "training.pairnets", "training.reranking", "training.tokenviews", "errors"},
    "training._loop": {"training._workplace", "errors"},
    "training._device": {"encoders.runtimes.choosing", "errors"},
    "training._batches": set(),
    "training.lora": {"errors"},
    "training._network": {"encoders", "encoders.pooling", "encoders.heads", "encoders.compose", "encoders.backbones"}
    | {"encoders._models", "encoders._tower", "training._device", "training.lora", "errors"},
    "training._pictures": {"_decoding", "_machine", "encoders.preprocess", "pictures", *HOW, *SPINE},
    "training._judging": {"encoders.tokens", "evaluation", "training.data", "training.lora", "training.report"}
    | {"training._loop", "training._network"},
    "training._workplace": {"errors"},
    "training.pretexts": {"training._library", "training._network", "training.augment", "errors"},
    "training.finetune": {"encoders._digest", "encoders.compose", "encoders.preprocess", "evaluation"}
    | {"training.augment", "training.data", "training.losses", "training.sampling", "errors"}
    | {
        "training._judging",
        "training._batches",
        "training._device",
        "training._loop",
        "training._network",
        "training._pictures",
    }
    | {"training._workplace"},
    "training.ssl": {
        "encoders._digest",
        "encoders.compose",
        "evaluation",
        "pictures",
        "training.augment",
        "training.data",
    }
    | {"training.finetune", "training.pretexts", "training.sampling", "errors"}
    | {
        "training._judging",
        "training._batches",
        "training._device",
        "training._loop",
        "training._network",
        "training._pictures",
    }
    | {"training._workplace"},
    "training.augment": set(),
    "training.networks": set(),
    "training.matching": set(),
    "training.teachers": set(),
    "training.recipes": {"training.augment"},
    "training.muon": set(),
    "training.distil": {"encoders._digest", "training._device", "training._workplace", "training.augment"}
    | {"training.matching", "training.muon", "errors", "training.networks", "training.recipes", "training.teachers"},
    "training.mini": {
        "training.distil",
        "training.networks",
        "training.recipes",
        "training.teachers",
        "encoders._digest",
        "errors",
    }
    | {"encoders.compose", "encoders.composition", "encoders.exported", "encoders.pooling", "encoders.preprocess"}
    | {"encoders.runtimes.graph", "encoders.runtimes.network", "encoders.runtimes.probes", "encoders.runtimes.writing"}
    | {"encoders.tokens"},
}
A_STORE = {
    "connectors.port",
    "connectors.address",
    "connectors._shared",
    "connectors._rows",
    "connectors._deadline",
    "connectors._files",
    "connectors._remedies",
    "connectors._specs",
    *SPINE,
}
AN_ENCODER = {"encoders.port", "_machine", *SPINE}
A_RERANKER = {"rerankers.port", "encoders.port", "_machine", *SPINE}

LIBRARIES = {
    "torch": ["encoders.*", "rerankers.*", "training", "training.*"],
    "transformers": ["encoders.*", "training.*"],
    "safetensors": ["encoders.*", "training.*"],
    "tokenizers": ["encoders.*"],
    "faiss": ["connectors.pq", "connectors._pq_*"],
    "sqlite3": [
        "_scratch",
        "_label_sheet",
        "_copy_*",
        "_facts",
        "journal",
        "connectors._mirror_missed",
        "connectors.pq",
        "connectors._pq_*",
        "connectors._qdrant_errors",
    ],  # local mode lets its errors through
    "qdrant_client": ["connectors.qdrant", "connectors._qdrant_*"],
    "qdrant_edge": ["connectors.qdrant_edge", "connectors._qdrant_edge_*"],
    "pymilvus": ["connectors.milvus", "connectors._milvus_*"],
    "typer": ["cli", "_cli_*", "_options", "_shell"],
    "rich": ["_printing", "_progress", "_cli_*"],
    "pyarrow": ["vectors_file", "_vectors_columns", "sources._rows"],
    "httpx": ["sources.web", "connectors._qdrant_*"],
    "httpcore": ["sources.web"],
    "opentelemetry": ["observing"],
    "fsspec": ["sources.filesystems"],
    "huggingface_hub": ["encoders._hub"],
    "onnxruntime": ["encoders.runtimes.*", "rerankers.learned"],
    "openvino": ["encoders.runtimes.*"],
    "pillow_heif": ["encoders.*"],
    "cv2": ["alignment"],
    "PIL": ["encoders.*", "demo", "training.mini"],
    "simplejpeg": ["encoders.*"],
}


def modules() -> dict[str, Path]:
    """Dotted name below pixdex -> file; a package is named without ``__init__``."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)] = path
    return found


MODULES = modules()


def imported(path: Path) -> set[str]:
    """Every module that a file imports, inside functions too."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            module = node.module or ""
            names.add(module)
            names.update(
                f"{module}.{a.name}" for a in node.names if f"{module}.{a.name}".removeprefix("pixdex.") in MODULES
            )
    return names


def internal(path: Path) -> set[str]:
    names = {n.removeprefix("pixdex.") for n in imported(path) if n.startswith("pixdex.")}
    # ``from pixdex.encoders import images`` means the module, not the package around it.
    return {n for n in names if not any(other.startswith(f"{n}.") for other in names)}


def allowed(module: str) -> set[str]:
    for package in ("filters", "sources", "evaluation"):
        if module.startswith(package):
            return RULES[f"{package}*"] | {m for m in MODULES if m.startswith(f"{package}.")}
    for pattern, names in RULES.items():
        if fnmatch.fnmatchcase(module, pattern):
            return names
    part, _, name = module.partition(".")
    base = {"connectors": A_STORE, "encoders": AN_ENCODER, "rerankers": A_RERANKER}[part]
    if part == "connectors":  # helpers of its own store only, such as connectors._qdrant_filters
        family = name.removeprefix("_").partition("_")[0]
        return base | {m for m in MODULES if m.startswith(f"connectors._{family}") or m == f"connectors.{family}"}
    return base | {m for m in MODULES if m.startswith(f"{part}.")}


@pytest.mark.parametrize("module", MODULES)
def test_imports_only_what_the_design_allows(module: str) -> None:
    names = allowed(module)
    if "*" not in names:
        assert internal(MODULES[module]) <= names


@pytest.mark.parametrize("module", MODULES)
def test_only_its_own_part_imports_a_library(module: str) -> None:
    if module.startswith("testing"):
        return
    for name in {n.partition(".")[0] for n in imported(MODULES[module])} & LIBRARIES.keys():
        assert any(fnmatch.fnmatchcase(module, pattern) for pattern in LIBRARIES[name]), f"{module} imports {name}"


@pytest.mark.parametrize("module", [m for m in MODULES if not m.startswith("testing")])
def test_nothing_imports_testing_or_the_command(module: str) -> None:
    assert not {n for n in internal(MODULES[module]) if n.startswith(("testing", "cli"))}


def test_the_rules_name_modules_that_exist() -> None:
    """A rule for a module that is gone would hide the next one of that name."""
    for pattern in RULES:
        assert fnmatch.filter(MODULES, pattern), pattern
