"""Glue: a number for the page's prose, and nothing at all outside a build."""

import subprocess
import sys

import nbformat
import pytest
import torch
from nbclient import NotebookClient

from enough.book import glue


def test_outside_a_notebook_nothing_happens(capsys):
    assert glue("x", 1.5) is None
    assert capsys.readouterr() == ("", "")


def test_without_the_page_tools_nothing_happens():
    code = "import sys; sys.modules['myst_nb'] = None\nfrom enough.book import glue\nglue('x', 1)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_name_is_needed():
    with pytest.raises(ValueError, match="name"):
        glue("", 1)


def test_in_a_kernel_the_number_travels_to_the_page():
    cell = nbformat.v4.new_code_cell(
        "import torch\nfrom enough.book import glue\nglue('x', torch.tensor(2.5))"
    )
    notebook = nbformat.v4.new_notebook(cells=[cell])
    (output,) = (
        NotebookClient(notebook, timeout=60, kernel_name="python3").execute().cells[0].outputs
    )
    assert output.metadata["scrapbook"]["name"] == "x"
    assert output.data["application/papermill.record/text/plain"] == repr(torch.tensor(2.5).item())
