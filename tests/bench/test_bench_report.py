"""What is published stays where it belongs."""

from bench import report


def test_a_section_replaces_only_itself(tmp_path, monkeypatch):
    """Write two sections by hand around a paragraph, renew one, and look at the rest."""
    page = tmp_path / "benchmarks.md"
    monkeypatch.setattr(report, "PAGE", page)
    report.put("overhead", r"old \1 figures")
    report.put("overload", "kept")

    report.put("overhead", r"new \1 figures")

    text = page.read_text()
    assert "old" not in text
    assert r"new \1 figures" in text
    assert text.count("<!-- overhead -->") == text.count("<!-- /overhead -->") == 1
    assert "kept" in text
    assert text.startswith("# Benchmarks")
