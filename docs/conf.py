"""How the documentation is built: pages in Markdown (MyST), the reference from the installed package's docstrings."""

import re
from importlib.metadata import version as installed_version
from pathlib import Path

from sphinx.application import Sphinx

import lauepilot

project = "lauepilot"
author = "lauepilot developers"
copyright = author
release = version = installed_version("lauepilot")

extensions = [
    "myst_parser",
    "sphinx.ext.apidoc",
    "sphinx.ext.autodoc",
    "sphinx.ext.doctest",
    "sphinx.ext.mathjax",
    "sphinx.ext.napoleon",
]
exclude_patterns = ["_build", "reference/api/modules.rst"]
myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3

# One page a module, read from where the package is installed: in the checkout the parts do not lie inside it.
apidoc_modules = [
    {
        "path": str(Path(lauepilot.__file__).parent),
        "destination": "reference/api",
        "separate_modules": True,
        "module_first": True,
        "automodule_options": {"members", "show-inheritance"},
        "include_private": True,  # for lauepilot.__main__; private names are left out again below
    }
]
# A name is documented where it is written, not again where __init__ hands it on.
autodoc_default_options = {"ignore-module-all": True}
autodoc_member_order = "bysource"
autodoc_typehints = "description"
napoleon_google_docstring = False
napoleon_use_ivar = True
# In numpydoc single backquotes may hold any name, also a parameter's, to which there is nothing to link.
default_role = "code"
suppress_warnings = ["ref.python"]  # "more than one target": two classes may have an attribute of one name

# Sphinx runs the examples of the pages; those of the docstrings need the names of their module, so pytest runs them.
doctest_test_doctest_blocks = ""
doctest_global_setup = "import numpy as np"

html_theme = "furo"
html_title = f"lauepilot {release}"


def _keep_bars(app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]) -> None:
    """Let ``|F|`` be an absolute value: reStructuredText would take it for a substitution. Literals stay as they are."""
    for index, line in enumerate(lines):
        pieces = re.split(r"(``.*?``)", line)
        lines[index] = "".join(
            piece if piece.startswith("``") else piece.replace("|", r"\|") for piece in pieces
        )


def _skip_private(app: Sphinx, what: str, name: str, obj: object, skip: bool, options: object) -> bool | None:
    """Leave out names with an underscore in front; None leaves the choice to autodoc."""
    return True if name.startswith("_") else None


def setup(app: Sphinx) -> None:
    app.connect("autodoc-skip-member", _skip_private)
    app.connect("autodoc-process-docstring", _keep_bars)
