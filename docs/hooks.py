"""Hooks of mkdocs: pages of benchmarks/results and the notebooks join the site.

Links are written as they hold in the repository; here those that cross docs/ are rewritten to hold
in the site, where benchmarks/ and notebooks/ lie beside the pages.
"""

from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
RESULTS = "benchmarks/results"


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the results of benchmarks, and the notebooks to download."""
    for file in sorted([*ROOT.glob(f"{RESULTS}/*.md"), *ROOT.glob("notebooks/*.ipynb")]):
        name = file.relative_to(ROOT).as_posix()
        files.append(File.generated(config, name, abs_src_path=str(file)))
    return files


def on_page_markdown(markdown: str, page: Page, **kwargs: Any) -> str:
    """`](../../benchmarks/` (or notebooks) in docs/a/b.md, and `](../../docs/` in results, each one
    level up."""
    if page.file.src_uri.startswith(RESULTS):
        return markdown.replace("](../../docs/", "](../../")
    for folder in ("benchmarks", "notebooks"):
        markdown = markdown.replace(f"](../../{folder}/", f"](../{folder}/")
    return markdown
