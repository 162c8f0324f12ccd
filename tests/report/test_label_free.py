"""The table of label-free scores: what each row is, trained beside untrained, and nothing for older runs."""

from gssl_jax.report.label_free import label_free_table


def test_rows_with_a_number_stand_in_the_table():
    scores = {"rankme": 34.25, "lidar": 12.0, "alignment": 0.5, "uniformity": -1.484, "alpha_req": None}
    health = {"trained": scores, "untrained": scores | {"rankme": 20.0, "lidar": None},
              "protocol": {"images": 1000, "views": 8}}  # fmt: skip
    found = label_free_table({"health": health})
    assert found.count("<tr>") == 5  # the heading and four rows; nobody has a spectrum
    assert "<td>34.2</td><td>20.0</td>" in found and "<td>12.0</td><td>\u2013</td>" in found
    assert "<td>\u22121.48</td><td>\u22121.48</td>" in found
    assert "on 1,000 training images of the evaluation and 8 augmented views of each" in found


def test_older_results_and_empty_ones_have_no_table():
    nothing = {"trained": {"rankme": None}, "untrained": {}, "protocol": {"images": 5, "views": 2}}
    assert [label_free_table(results) for results in ({}, {"health": {}}, {"health": nothing})] == [""] * 3
