"""pictures.npz: what is written comes back, small, whole and without pickles."""

import numpy as np
import pytest

from gssl_jax.runs.archive import read_pictures, write_pictures


def pictures():
    """Two images of 2 x 2 pixels whose levels are whole numbers of 255ths, and what goes with them."""
    levels = np.arange(24, dtype=np.float32).reshape(2, 2, 2, 3) * 11
    return {
        "gradcam": {
            "images": levels / 255,
            "maps": np.linspace(0, 1, 8).reshape(2, 2, 2),
            "predicted": np.array([1, 0], np.int32),
            "labels": np.array([1, -1]),
        },
        "attention": {"images": levels / 255, "maps": np.full((2, 3, 2, 2), 1e-3, np.float32)},
        "tsne": {"points": np.array([[0.5, -3.25]], np.float32), "labels": np.array([4])},
    }


def test_what_is_written_comes_back(tmp_path):
    path = tmp_path / "pictures.npz"
    write_pictures(path, pictures(), ("Stra\u00dfe", "\u732b"))
    kept = read_pictures(path)
    assert kept.classes == ("Stra\u00dfe", "\u732b") and [one.name for one in tmp_path.iterdir()] == ["pictures.npz"]
    for kind, arrays in pictures().items():
        assert set(kept.pictures[kind]) == set(arrays)
        for name, array in arrays.items():
            within = 0.5 / 255 + 1e-6 if (kind, name) == ("gradcam", "maps") else 0  # 256 levels of colour
            np.testing.assert_allclose(kept.pictures[kind][name], array, rtol=0, atol=within)
    assert kept.pictures["gradcam"]["images"].dtype == np.float32


def test_images_are_bytes_and_weak_attention_is_not(tmp_path):
    """An attention of 1/1000 would be nothing in 255ths."""
    write_pictures(tmp_path / "p.npz", pictures(), ())
    with np.load(tmp_path / "p.npz", allow_pickle=False) as held:
        kinds = {name: held[name].dtype for name in held.files}
    assert kinds["gradcam/images"] == kinds["gradcam/maps"] == kinds["attention/images"] == np.uint8
    assert kinds["attention/maps"] == kinds["tsne/points"] == np.float32 and kinds["gradcam/predicted"] == np.int32
    assert read_pictures(tmp_path / "p.npz").classes == ()


@pytest.mark.parametrize("value", [-0.1, 1.5, np.nan])
def test_what_does_not_fit_into_bytes_stays_as_it_is(tmp_path, value):
    images = np.array([[[[0.25, value]]]], np.float32)
    write_pictures(tmp_path / "p.npz", {"reconstruction": {"reconstructed": images}}, ())
    found = read_pictures(tmp_path / "p.npz").pictures["reconstruction"]["reconstructed"]
    np.testing.assert_array_equal(found, images)


def test_without_pictures_there_are_classes(tmp_path):
    write_pictures(tmp_path / "p.npz", {}, ("a",))
    assert read_pictures(tmp_path / "p.npz") == ({}, ("a",))


def test_another_file_is_refused_and_none_is_told_apart(tmp_path):
    path = tmp_path / "p.npz"
    with pytest.raises(FileNotFoundError):
        read_pictures(path)
    write_pictures(path, pictures(), ())
    whole = path.read_bytes()
    start = whole.index(b"images.npy") + 30  # numbers of the first array, behind its name and the size of the entry
    damaged = (whole[:start] + byte * 20 + whole[start + 20 :] for byte in (b"\0", b"\xff"))
    for content in (b"", b"no archive", whole[: len(whole) // 2], *damaged):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="p.npz could not be read"):
            read_pictures(path)
    np.save(tmp_path / "one.npy", np.zeros(3))
    with pytest.raises(ValueError, match="one.npy could not be read"):
        read_pictures(tmp_path / "one.npy")


def test_a_pickle_is_not_run(tmp_path):
    np.savez(tmp_path / "p.npz", **{"gradcam/images": np.array([{"a": 1}], object)})
    with pytest.raises(ValueError, match="p.npz could not be read"):
        read_pictures(tmp_path / "p.npz")
