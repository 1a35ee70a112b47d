"""GitHub annotations and the job summary."""

from __future__ import annotations

from pathlib import Path

from gaudi_patch.errors import Exit
from gaudi_patch.output.github import pending
from gaudi_patch.output.report import Result
from tests.cli.command_line import arguments
from tests.support import tiny
from tests.support.cli import gaudi_patch


def test_github_annotations_mark_the_line_and_a_summary_is_appended(tmp_path: Path) -> None:
    """The annotation marks the hunk in its patch and explains the mismatch, escaped and on one line."""
    target = tiny.make(tmp_path / "t")
    summary = tmp_path / "summary.md"
    engine = target.site / "lmcache/engine.py"
    engine.write_bytes(b"100%\n")
    done = gaudi_patch(
        *arguments(target, "apply", "--output-format", "github"), env={"GITHUB_STEP_SUMMARY": str(summary)}
    )
    assert done.code == 1
    (line,) = [line for line in done.out.splitlines() if line.startswith("::error")]
    assert line.startswith(f"::error file={target.site},title=gaudi-patch drift::")
    assert "%0A" in line
    assert summary.read_text().startswith("### gaudi-patch apply: exit 1\n")

    ok = gaudi_patch(*arguments(tiny.make(tmp_path / "u"), "check", "--output-format", "github"))
    assert (ok.code, "::error" in ok.out) == (10, False)


def test_a_hunk_that_does_not_apply_is_marked_in_its_patch_and_explained(tmp_path: Path) -> None:
    """The annotation is at the hunk's own line; its text says what differs and where."""
    target = tiny.make(tmp_path / "t")
    (target.site / "lmcache/engine.py").write_bytes(b"def device() -> str:\n    return 'cuda'\n")
    metadata = target.dist_info / "METADATA"
    metadata.write_text(metadata.read_text().replace("0.5.6", "0.5.7"))
    target.dist_info.rename(target.site / "lmcache-0.5.7.dist-info")
    done = gaudi_patch(*arguments(target, "apply", "--allow-offset", "--output-format", "github"))
    assert done.code == 1
    (line,) = [line for line in done.out.splitlines() if line.startswith("::error")]
    patch = target.manifest.directory / "tiny.patch"
    lines = patch.read_bytes().split(b"\n")
    at = lines.index(b"+++ b/lmcache/engine.py") + 2
    assert line.startswith(f"::error file={patch},line={at},title=gaudi-patch does-not-apply::")
    assert "def device() -> str:" in line
    assert lines[at - 1].startswith(b"@@")


def test_a_gitlab_log_says_below_its_section_that_a_series_would_apply(tmp_path: Path) -> None:
    """GitHub shows exit code 10 as a warning, GitLab as a line below the section, which is not folded."""
    target = tiny.make(tmp_path / "t")
    ci = [gaudi_patch(*arguments(target, "check", "--output-format", form)).out for form in ("github", "gitlab")]
    assert (
        "::warning title=gaudi-patch pending::check: not patched; a series would apply%0Anext: gaudi-patch apply"
        in ci[0]
    )
    head, _, below = ci[1].partition("section_end:")
    assert "[collapsed=true]" not in head
    assert "\x1b[1;33mwarning:\x1b[0m check: not patched; a series would apply; next: gaudi-patch apply" in below
    assert "pristine  lmcache/engine.py" in head


def test_an_older_series_is_not_called_unpatched() -> None:
    said = {state: pending(Result("check", Exit.PENDING, {"state": state})) for state in ("pristine", "outdated")}
    assert said == {
        "pristine": "check: not patched; a series would apply",
        "outdated": "check: patched with other patches; a series would apply",
    }
