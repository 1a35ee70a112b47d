"""`recipe`: an LMCache configuration for one deployment mode, and how to start vLLM with it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gaudi_patch.cli import completion
from gaudi_patch.cli.options import (
    ChunkOption,
    ColorOption,
    JsonOption,
    ManifestOption,
    ModelConfigOption,
    PathOption,
    PromptsOption,
    PythonOption,
    RanksOption,
    command_app,
)
from gaudi_patch.cli.run import finish, target
from gaudi_patch.errors import Exit, GaudiPatchError
from gaudi_patch.output.report import Block, Color, Format, Preformatted, Result, Table, Text

if TYPE_CHECKING:
    from gaudi_patch.recipes.write import Composed

app = command_app()

#: Default number of requests of the longest length that a pool has room for.
PROMPTS = 2


@app.command()
def recipe(
    context: typer.Context,
    mode: Annotated[
        str,
        typer.Argument(
            metavar="[MODE]", help="memory, disk, remote, ...; omit to list them.", autocompletion=completion.modes
        ),
    ] = "",
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="DIR", help="Write the files into DIR (default: print them)."),
    ] = None,
    model: Annotated[
        str, typer.Option("--model", metavar="NAME", help="The model to serve, as given to vLLM.")
    ] = "meta-llama/Llama-3.1-8B-Instruct",
    ranks: RanksOption = 1,
    port: Annotated[
        int,
        typer.Option(
            "--port", metavar="PORT", min=1, max=65535, help="vLLM's port; in mode disaggregated, the proxy's."
        ),
    ] = 8000,
    bind: Annotated[
        str | None,
        typer.Option("--bind", metavar="ADDRESS", help="Listen on this address (default: vLLM on every interface)."),
    ] = None,
    storage: Annotated[
        str | None,
        typer.Option(
            "--storage",
            metavar="WHERE",
            help="A directory, lm://, redis[s]://, valkey[s]://, s3://, mooncake://; not for memory.",
        ),
    ] = None,
    chunk: ChunkOption = 256,
    cpu_gb: Annotated[
        float | None,
        typer.Option("--cpu-gb", metavar="GB", min=0.1, help="Host memory for each rank (default: by the model)."),
    ] = None,
    max_model_len: Annotated[
        int | None,
        typer.Option(
            "--max-model-len", metavar="TOKENS", min=1, help="The longest request (default: the model's limit)."
        ),
    ] = None,
    prompts: PromptsOption = PROMPTS,
    model_config: ModelConfigOption = None,
    disk_gb: Annotated[
        float | None,
        typer.Option("--disk-gb", metavar="GB", min=0.1, help="Space on the disk or in the store for each rank."),
    ] = None,
    quotas: Annotated[
        bool, typer.Option("--quotas", help="A budget for each cache_salt, in mode multiprocess.")
    ] = False,
    start: Annotated[
        str,
        typer.Option(
            "--target",
            metavar="TARGET",
            help="How to start it: scripts, systemd, compose, kubernetes.",
            autocompletion=completion.targets,
        ),
    ] = "scripts",
    image: Annotated[
        str,
        typer.Option("--image", metavar="NAME", help="Image with vLLM and patched LMCache, for compose, kubernetes."),
    ] = "",
    lmcache: Annotated[
        str,
        typer.Option(
            "--lmcache",
            metavar="VERSION",
            help="Write for this release without checking an installation.",
            autocompletion=completion.versions,
        ),
    ] = "",
    python: PythonOption = None,
    path: PathOption = None,
    manifest: ManifestOption = None,
    as_json: JsonOption = False,
    color: ColorOption = Color.AUTO,
) -> None:
    """Write an LMCache configuration, and the scripts that start vLLM with it.

    Without MODE, list the ways to deploy LMCache.

    The installed LMCache first loads the configuration in its own interpreter, and has to
    accept every value unchanged. A mode that the release does not support on an HPU is refused
    with the reason, as is an option that the mode does not use. An existing file with other
    content is never overwritten.

    The pool in host memory is sized by the model, as in `size`. A pool that holds less than one
    request of --max-model-len is refused.

    --target adds what starts the scripts: systemd units, a compose file with the equivalent
    docker run commands, or Kubernetes manifests with --image. Memory limits come from the same
    calculation.

    Example:

        gaudi-patch recipe memory --python /opt/venv/bin/python --out ~/lmcache

    Example, a store shared by hosts, for a release that is not installed here:

        gaudi-patch recipe shared --lmcache 0.5.6 --storage /mnt/lmcache

    Example, manifests for a cluster:

        gaudi-patch recipe memory --lmcache 0.5.6 --target kubernetes --image NAME
    """

    def verb() -> Result:
        from dataclasses import replace

        from gaudi_patch.recipes import write
        from gaudi_patch.recipes.compose import Settings
        from gaudi_patch.recipes.pool import Asked, pooled, weights
        from gaudi_patch.recipes.targets.write import check as check_target
        from gaudi_patch.recipes.targets.write import start as start_by
        from gaudi_patch.series.manifest import load

        if not mode:
            _refuse_without_mode(context)
            return modes()
        write.mode_of(mode)  # before looking for an installation
        check_target(start, image)
        _refuse_odd(
            {"--cpu-gb": cpu_gb, "--disk-gb": disk_gb}, {"--model": model, "--storage": storage, "--bind": bind}
        )
        asked = Asked(cpu_gb, max_model_len, prompts, ranks, chunk)
        if cpu_gb is not None and prompts != PROMPTS:
            raise GaudiPatchError(
                Exit.USAGE, "usage", "--prompts computes the pool's size, and --cpu-gb sets it: use only one of them"
            )
        pool, longest, why, sizing = pooled(model, model_config, mode, asked)
        settings = Settings(
            model, ranks, port, chunk, pool, disk_gb, storage, longest, bind=bind, sizing=sizing, quotas=quotas
        )
        if lmcache and (python or path):
            raise GaudiPatchError(Exit.USAGE, "usage", "--lmcache uses no installation: leave out --python and --path")
        if lmcache:
            composed = write.for_version(load(manifest), lmcache, mode, settings)
        else:
            composed = write.for_installation(*target(python, path, None, manifest), mode, settings)
        started = start_by(
            start, image, composed.mode, composed.release, settings, composed.recipe,
            weights=weights(sizing, model, model_config), folder=None if out is None else PurePosixPath(out.resolve()),
        )  # fmt: skip
        composed = replace(composed, recipe=started)
        if out is not None:
            write.write(composed.recipe.files, out)
        return rendered(composed, out, why, start)

    finish("recipe", verb, Format.TEXT, color, as_json)


def modes() -> Result:
    """Return the result that lists the modes and their purpose."""
    from gaudi_patch.recipes.compose import MODES
    from gaudi_patch.series.manifest import load

    rows = [(mode.name, mode.summary) for mode in MODES.values()]
    return Result(
        "recipe",
        data={"modes": [{"mode": name, "summary": summary} for name, summary in rows]},
        blocks=[
            Table(("mode", "LMCache keeps KV in"), rows),
            # As it stands, it shows one: an installed LMCache is not needed, and nothing is written.
            Text(f"next: gaudi-patch recipe {rows[0][0]} --lmcache {load().series[0].id}", "next", verbatim=True),
        ],
    )


def _refuse_odd(sizes: Mapping[str, float | None], words: Mapping[str, str | None]) -> None:
    """Refuse sizes that are not numbers, and text with control characters: both end up in scripts and units."""
    for option, size in sizes.items():
        if size is not None and not math.isfinite(size):
            raise GaudiPatchError(Exit.USAGE, "usage", f"{option} {size}: not a valid size; nothing was written")
    for option, word in words.items():
        if word is not None and any(ord(character) < 32 or ord(character) == 127 for character in word):
            raise GaudiPatchError(
                Exit.USAGE, "usage", f"{option} {word!a}: contains a control character; nothing was written"
            )


def rendered(composed: Composed, out: Path | None, why: str = "", target: str = "scripts") -> Result:
    """Return the result: the list of files written to ``out``, or the files themselves.

    ``why`` explains the pool's size, ``target`` is what starts the scripts.
    """
    recipe, version = composed.recipe, composed.release.version
    data: dict[str, Any] = {
        "mode": composed.mode,
        "target": target,
        "lmcache": version,
        "checked": composed.checked,
        "files": dict(recipe.files),
        "notes": [note for note in (*recipe.notes, why) if note],
        "folder": None if out is None else str(out.resolve()),
    }
    if composed.guarded is not None:
        data["guarded"] = composed.guarded
    blocks: list[Block] = []
    if out is not None:
        blocks += [Text(f"{out / name}", "good", verbatim=True) for name in recipe.files]
    else:
        for name, content in recipe.files.items():
            blocks += [Text(f"==> {name} <==", "next"), Preformatted(f"{content}\n")]
    blocks += [Text(note) for note in (*recipe.notes, why) if note]
    warnings = []
    if composed.checked:
        blocks.append(Text(f"validated: LMCache {version} accepts every value", "good"))
    else:
        warnings.append("not validated by any LMCache: without --lmcache, the installed one checks it")
    if composed.patch:
        warnings.append(f"this LMCache is not patched, and does not work on an HPU: {composed.patch}")
    return Result("recipe", data=data, blocks=blocks, warnings=warnings)


def _refuse_without_mode(context: typer.Context) -> None:
    """Refuse options that have no effect on the list of modes."""
    shown = {"as_json", "color"}
    given = [
        parameter.opts[0]
        for parameter in context.command.params
        if parameter.name not in shown
        and getattr(context.get_parameter_source(str(parameter.name)), "name", "") == "COMMANDLINE"
    ]
    if given:
        raise GaudiPatchError(
            Exit.USAGE, "usage", f"{', '.join(given)}: has no effect without a MODE", "see `gaudi-patch recipe`"
        )
