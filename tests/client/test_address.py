"""Where a node is looked for."""

from pathlib import Path

from tidsram.client.address import DEFAULT_URL, node_url
from tidsram.estate.types import Estate, Site

FOLDER = Path("/estates")


def estate(*sites):
    return Estate(name="e", sites={site.name: site for site in sites})


HERE = Site(name="here", http="127.0.0.1:8701", unix=".tidsram/here.sock")
THERE = Site(name="there", http="127.0.0.1:0", unix="/run/there.sock")


def test_what_is_given_goes_first_and_a_plain_path_is_a_socket():
    """Name a URL and a path."""
    assert node_url("http://a:1", estate(HERE), FOLDER) == "http://a:1"
    assert node_url("/run/x.sock", None, FOLDER) == "unix:/run/x.sock"


def test_a_socket_that_is_there_beats_ports_and_other_sites():
    """Let only the second site's socket exist."""

    def is_socket(path):
        return path == Path("/run/there.sock")

    assert node_url(None, estate(HERE, THERE), FOLDER, is_socket) == "unix:/run/there.sock"


def test_without_a_socket_the_declared_port_is_asked():
    """Let no socket exist."""
    assert node_url(None, estate(THERE, HERE), FOLDER, lambda _: False) == "http://127.0.0.1:8701"


def test_a_site_on_any_port_is_looked_for_at_its_socket():
    """Declare port 0 only: the sentence must name what was declared, not a guess."""
    assert node_url(None, estate(THERE), FOLDER, lambda _: False) == "unix:/run/there.sock"


def test_a_relative_socket_starts_at_the_estate_file():
    """Let the first site's socket exist."""
    url = node_url(None, estate(HERE), FOLDER, lambda _: True)

    assert url == "unix:/estates/.tidsram/here.sock"


def test_without_an_estate_the_usual_port_is_asked():
    """As after `tidsram serve my.onnx`."""
    assert node_url(None, None, FOLDER) == DEFAULT_URL
