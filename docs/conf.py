"""How Sphinx builds the site: `make docs`, into docs/_build/html."""

from __future__ import annotations

import os
from importlib.metadata import version as version_of
from typing import Any

from sphinx.addnodes import pending_xref, pending_xref_condition
from sphinx.application import Sphinx
from sphinx.transforms.post_transforms import SphinxPostTransform

# A page shall look the same wherever it is built, so no kernel may depend on the number of cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")

project = "deeplab-repro"
author = "the authors of deeplab-repro"
version = release = version_of("deeplab-repro")
language = "en"

extensions = [
    "myst_nb",  # pages in Markdown; runs the notebook
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",  # docstrings in Google's style
    "sphinx.ext.viewcode",
]
exclude_patterns = ["_build"]
source_suffix = {".rst": "restructuredtext", ".md": "myst-nb", ".ipynb": "myst-nb"}

# Links to headings of other pages, as GitHub makes them.
myst_heading_anchors = 3

# The notebook is stored without results: each build computes them anew, since what they show
# depends on the package.
nb_execution_mode = "force"
nb_execution_timeout = 300
nb_execution_raise_on_error = True
nb_execution_show_tb = True

# What a package lists in __all__, in that order, and methods in the order of the code.
autodoc_default_options = {"members": True, "member-order": "bysource"}
autodoc_preserve_defaults = True
autodoc_typehints = "signature"
napoleon_numpy_docstring = False
napoleon_use_ivar = True  # autodoc lists the fields of a dataclass already
python_use_unqualified_type_names = True
maximum_signature_line_length = 90
add_module_names = False
toc_object_entries_show_parents = "hide"
smartquotes = False  # most quotes are of code
# Docstrings put names and values in single backticks.
default_role = "code"

html_theme = "furo"
html_title = "deeplab-repro"
html_copy_source = False
html_show_sourcelink = False


class OwnTypesOnly(SphinxPostTransform):
    """Leaves types of Python, numpy and torch in signatures unlinked.

    Their pages are not here, and nothing is fetched. Sphinx would look for each of them among all
    names of the reference by their last part, and so take `bytes` for the field of some class.
    """

    default_priority = 5  # before ReferencesResolver

    def run(self) -> None:
        """Replace the references by their text."""
        types = {"class", "exception", "data", "type"}
        objects = self.env.domains.python_domain.objects
        own = {name.split(".")[-1] for name, entry in objects.items() if entry.objtype in types}
        for node in list(self.document.findall(pending_xref)):
            is_type = node.get("refdomain") == "py" and node.get("reftype") in ("class", "obj")
            if is_type and node["reftarget"].split(".")[-1] not in own:
                first = node.children[0]  # the short name, where there is a long one too
                short = isinstance(first, pending_xref_condition)
                node.replace_self(first.children if short else node.children)


def join_names(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Make one name of several attributes that share a line; Sphinx takes the first for a type."""
    for i, line in enumerate(lines):
        if line.startswith(":ivar "):
            names, colon, text = line.removeprefix(":ivar ").partition(":")
            lines[i] = ":ivar " + names.replace(", ", ",") + colon + text


def skip_plain_fields(
    app: Sphinx, what: str, name: str, obj: Any, skip: bool, options: Any
) -> bool | None:
    """Leave out fields of named tuples, whose class says what they are."""
    return True if (getattr(obj, "__doc__", None) or "").startswith("Alias for field") else None


def setup(app: Sphinx) -> None:
    """Called by Sphinx."""
    app.add_post_transform(OwnTypesOnly)
    app.connect("autodoc-process-docstring", join_names, priority=900)  # behind napoleon
    app.connect("autodoc-skip-member", skip_plain_fields)
