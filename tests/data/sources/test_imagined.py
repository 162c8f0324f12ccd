"""Images that are only counted."""

import pytest

from gssl_jax.data.sources.imagined import open_imagined
from gssl_jax.errors import UserError


def test_counts_and_labels_in_turn():
    found = open_imagined("7x3")
    assert len(found) == 7 and len(found.classes) == 3
    assert [found.label(i) for i in range(7)] == [0, 1, 2, 0, 1, 2, 0]
    assert open_imagined("7").classes == () and open_imagined("7").label(3) == -1
    assert found.fingerprint() != open_imagined("7").fingerprint()


@pytest.mark.parametrize("path", ["", "0", "x3", "7x", "seven", "-7"])
def test_another_path_is_refused(path):
    with pytest.raises(UserError, match="1281167"):
        open_imagined(path)


def test_none_can_be_read():
    with pytest.raises(UserError, match="cannot be read"):
        open_imagined("7")[0]
