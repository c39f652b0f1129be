# ruff: noqa: INP001  a script, in no package
"""Build the documentation site: `make docs`. It needs docs/requirements.txt and no network."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGES = ROOT / "build" / "pages"
SITE = ROOT / "build" / "site"
ADDRESS = "http://site.invalid/"
"""The `site_url` of zensical.toml."""
CANONICAL = re.compile(r'\s*<link rel="canonical"[^>]*>')


def stage() -> None:
    """Copy the pages. A link to a file that is not part of the site becomes its text."""
    shutil.rmtree(ROOT / "build", ignore_errors=True)
    docs = ROOT / "docs"
    for page in docs.rglob("*.md"):
        target = PAGES / page.relative_to(docs)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(with_bars(without_outside(page.read_text(), page.parent, docs)))


def without_outside(text: str, folder: Path, docs: Path) -> str:
    """The page without links to files outside of docs/."""

    def replace(link: re.Match[str]) -> str:
        path = link[2].partition("#")[0]
        is_inside = ":" in path or (folder / path).resolve().is_relative_to(docs)
        return link[0] if is_inside else link[1]

    return re.sub(r"\[([^\]]+)\]\(([^)\s]+)\)", replace, text)


def with_bars(text: str) -> str:
    """The page with plain bars in the code of tables: zensical shows the backslash before one."""
    return re.sub(r"`[^`\n]*`", lambda code: code[0].replace(r"\|", "|"), text)


def finish() -> None:
    """Make every address in the site relative."""
    (SITE / "sitemap.xml").unlink(missing_ok=True)
    for path in SITE.rglob("*"):
        if path.suffix in {".html", ".txt", ".md"}:
            text = CANONICAL.sub("", path.read_text())
            path.write_text(text.replace(ADDRESS, ""))


def main() -> int:
    stage()
    zensical = Path(sys.executable).with_name("zensical")
    built = subprocess.run([zensical, "build", "--strict"], cwd=ROOT, check=False)  # noqa: S603  fixed words
    if built.returncode == 0:
        finish()
        print(f"The site is in {SITE.relative_to(ROOT)}: open {SITE / 'index.html'}")  # noqa: T201
    return built.returncode


if __name__ == "__main__":
    sys.exit(main())
