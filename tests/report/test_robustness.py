"""The section on robustness: accuracy by severity by hand, and that its rows stand in its own table alone."""

import numpy as np
import pytest

from gssl_jax.report import robustness
from gssl_jax.report.html import write_report
from gssl_jax.report.words import comparison_table
from tests.report.conftest import entry
from tests.report.page import Page


def robust_entries(clean):
    """Two corruptions at severities 1 and 5, beside what has none."""
    first = {"1": clean - 0.1, "5": clean - 0.3}
    second = {"1": clean - 0.2, "5": clean - 0.4}
    return {
        "robust_clean/top1": entry(clean, 0.02),
        "robust_fog/top1": entry(clean - 0.2, 0.02, severities=first, clean=clean),
        "robust_jpeg_compression/top1": entry(clean - 0.3, 0.02, severities=second, clean=clean),
        "robust_mean/top1": entry(clean - 0.25, 0.02, clean=clean),
        "robust_pgd_l2_0.5/top1": entry(0.04, 0.02, clean=clean),
        "shift_shaded/top1": entry(0.31, 0.02),
    }


@pytest.fixture
def results(make_results):
    made = make_results({"knn/top1": 0.6}, {"knn/top1": 0.5}, {"knn/top1": 0.3})
    made["eval"] |= robust_entries(0.8)
    made["controls"]["untrained"] |= robust_entries(0.6)
    return made


def test_the_line_is_the_mean_over_corruptions(results, tmp_path):
    rows = robustness.rows_of(comparison_table(results))
    assert len(rows) == 6
    for name, clean in (("trained", 0.8), ("untrained", 0.6)):
        severities, values = robustness.severity_line(rows, name)
        assert severities.tolist() == [0, 1, 5]
        np.testing.assert_allclose(values, [clean, clean - 0.15, clean - 0.35])
    assert robustness.severity_line(rows, "pixels") is None
    assert robustness.draw_severity(rows, tmp_path).exists()
    assert robustness.draw_severity(rows[-1:], tmp_path) is None
    assert "<img" not in robustness.section(rows[-1:], tmp_path) and "on shaded" in robustness.section(rows, tmp_path)


def test_the_page_has_a_section_and_the_scores_do_not_have_its_rows(results, make_folder):
    page = Page(write_report(make_folder(results), {}, ("a", "b", "c")).read_text(encoding="utf-8"))
    assert "Robustness" in page.said and "k-NN" in page.said
    assert page.said.count("PGD, l2 0.5") == 3  # the verdict, its table and its protocol
    assert page.said.count("JPEG") == 2  # its table and its protocol
    del results["eval"], results["controls"]
    assert robustness.section(comparison_table(results), make_folder(results)) == ""
