import numpy as np
import pytest

from wsistain.errors import DataError
from wsistain.pairing.transform import PieceMap, load_transform, save_transform


def a_map(field=None, matrix=None) -> PieceMap:
    matrix = np.array([[0.0, -1.0, 500.0], [1.0, 0.0, 20.0]]) if matrix is None else matrix
    field = np.zeros((2, 5, 6), np.float32) if field is None else field
    return PieceMap(matrix, matrix, np.array([0.0, 0, 400, 500]), np.array([40.0, 10.0]), 50.0, field)


def test_places_are_those_of_the_matrix_and_the_field_between_its_nodes():
    field = np.zeros((2, 5, 6), np.float32)
    field[0, 2, 3], field[1, 2, 3] = 8.0, -4.0
    piece = a_map(field)
    y, x = piece.map(np.array([140.0, 140.0, 115.0]), np.array([160.0, 185.0, 160.0]))
    # 500 - x and 20 + y, and of the field: at its node all, halfway to the next one half
    assert np.allclose(y, [340 + 8, 315 + 4, 340 + 4]) and np.allclose(x, [160 - 4, 160 - 2, 135 - 2])


def test_turn_and_face_are_read_from_the_matrix():
    a = np.deg2rad(25)
    turn = np.array([[np.cos(a), -np.sin(a), 0.0], [np.sin(a), np.cos(a), 0.0]])
    assert a_map(matrix=turn).turn_deg == pytest.approx(25) and not a_map(matrix=turn).is_mirrored
    down = turn * np.array([1, -1, 1])
    assert a_map(matrix=down).turn_deg == pytest.approx(25) and a_map(matrix=down).is_mirrored


def test_stretch_is_the_largest_change_of_length():
    y = np.arange(5)[:, None] * 50.0 * np.ones((1, 6))
    piece = a_map(np.stack([np.zeros((5, 6)), 0.1 * y]).astype(np.float32))  # x on the IHC grows by 0.1 with y
    assert piece.stretch() == pytest.approx(0.1, abs=1e-5)  # along the H&E's y, which lies along the IHC's x
    assert a_map().stretch().max() == 0


def test_a_file_gives_back_what_was_saved_and_the_same_bytes(tmp_path):
    field = np.random.default_rng(0).normal(0, 5, (2, 5, 6)).astype(np.float32)
    for name in ("a.npz", "b.npz"):
        save_transform(tmp_path / name, [a_map(field), a_map()], {"sections": [1, 2]})
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    pieces, facts = load_transform(tmp_path / "a.npz")
    assert facts["sections"] == [1, 2] and len(pieces) == 2
    assert np.array_equal(pieces[0].field_um, field) and np.array_equal(pieces[0].matrix, a_map().matrix)


def test_what_is_no_transform_is_refused(tmp_path):
    path = tmp_path / "x.npz"
    with pytest.raises(DataError, match="is not a transform"):
        load_transform(path)
    path.write_bytes(b"PK\x03\x04 no zip")
    with pytest.raises(DataError, match="is not a transform"):
        load_transform(path)
    np.savez(path, facts=np.array('{"format": 1}'), matrix_1=np.zeros(3))
    with pytest.raises(DataError, match="is not a transform"):
        load_transform(path)
    save_transform(path, [a_map(np.full((2, 5, 6), np.nan, np.float32))], {})
    with pytest.raises(DataError, match="numbers that are none"):
        load_transform(path)
    save_transform(path, [], {})
    with pytest.raises(DataError, match="another version"):
        load_transform(path)
