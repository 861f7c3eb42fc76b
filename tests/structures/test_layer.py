import pytest

from fisher_detr.structures import LayerInfo, QuantSpec, check_widths


def test_size_counts_packed_bits_and_scales():
    # 27 weights x 3 bits = 81 bits, 10.125 bytes, so 11; 3 scales of 4 bytes.
    assert LayerInfo("a", 27, 3).size_bytes(3) == 11 + 12
    assert LayerInfo("a", 27, 3).size_bytes(8) == 27 + 12


def test_quant_spec_levels():
    # 3 bits: symmetric -3..3, affine 0..7.
    assert (QuantSpec(3).qmin, QuantSpec(3).qmax) == (-3, 3)
    assert (QuantSpec(3, symmetric=False).qmin, QuantSpec(3, symmetric=False).qmax) == (0, 7)
    for bits in (1, 9):
        with pytest.raises(ValueError, match="expected 2 to 8"):
            QuantSpec(bits)


def test_widths():
    check_widths((2, 8))
    for widths in ((), (2, 2), (3, 2), (1,), (9,), (2.0,)):
        with pytest.raises(ValueError, match="ascending whole numbers"):
            check_widths(widths)
