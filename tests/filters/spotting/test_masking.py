"""Masking: which pixels text covers, and what is painted over them."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from open_diht.filters.spotting.masking import mask_text, text_area


def rectangle(left, top, right, bottom):
    return [(left, top), (right, top), (right, bottom), (left, bottom)]


@st.composite
def rectangles(draw):
    """Rectangles with whole corners, some partly or wholly outside a 12 x 9 image."""
    one = st.tuples(st.integers(-4, 14), st.integers(-4, 12), st.integers(1, 8), st.integers(1, 8))
    return [rectangle(x, y, x + w, y + h) for x, y, w, h in draw(st.lists(one, max_size=6))]


polygons = st.lists(
    st.lists(st.tuples(st.floats(-5, 15), st.floats(-5, 15)), min_size=3, max_size=5), max_size=4
)


def noise(*shape):
    return np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)


def covered_by(boxes, width=12, height=9):
    grid = np.zeros((height, width), bool)
    for (left, top), _, (right, bottom), _ in boxes:
        grid[max(0, top) : max(0, bottom), max(0, left) : max(0, right)] = True
    return grid


class TestTextArea:
    def test_nothing_covers_nothing_and_a_box_around_the_image_all_of_it(self):
        assert text_area([], (12, 9)) == 0
        assert text_area([rectangle(-3, -3, 40, 40)], (12, 9)) == 1

    def test_a_polygon_covers_the_pixels_whose_centers_it_contains(self):
        # A center on its last edge is outside: 3 + 2 + 1 pixels.
        triangle = [
            (0, 0),
            (4, 0),
            (0, 4),
        ]
        assert text_area([triangle], (4, 4)) == 6 / 16
        assert text_area([rectangle(0.4, 0.4, 2.4, 1.4)], (4, 4)) == 2 / 16
        assert text_area([[(0.6, 0.6), (0.9, 0.6), (0.9, 0.9)]], (4, 4)) == 0  # between centers

    @given(rectangles())
    @settings(deadline=None)
    def test_overlaps_count_once_and_what_lies_outside_not_at_all(self, boxes):
        assert text_area(boxes, (12, 9)) == np.count_nonzero(covered_by(boxes)) / 108

    @given(st.floats(1, 11), st.floats(1, 8))
    @settings(deadline=None)
    def test_polygons_that_share_an_edge_divide_the_pixels_between_them(self, x, y):
        corners = rectangle(0, 0, 12, 9)
        parts = [[corners[n], corners[(n + 1) % 4], (x, y)] for n in range(4)]
        assert sum(text_area([part], (12, 9)) for part in parts) == pytest.approx(1)
        assert text_area(parts, (12, 9)) == 1


class TestMaskText:
    def test_text_on_a_plain_ground_vanishes(self):
        image = np.full((20, 30, 3), (10, 200, 60), np.uint8)
        expected = image.copy()
        image[5:9, 4:20] = noise(4, 16, 3)
        assert np.array_equal(mask_text(image, [rectangle(3, 4, 21, 10)]), expected)

    def test_the_color_is_the_mean_of_the_ring_of_pixels_around_the_box(self):
        image = noise(9, 12, 3)
        inner = image[3:5, 4:9].reshape(-1, 3).astype(int)
        outer = image[2:6, 3:10].reshape(-1, 3).astype(int)
        mean = (outer.sum(0) - inner.sum(0)) / (len(outer) - len(inner))
        masked = mask_text(image, [rectangle(4, 3, 9, 5)])
        assert np.array_equal(masked[3, 4], np.floor(mean + 0.5))
        assert (masked[3:5, 4:9] == masked[3, 4]).all()

    def test_the_image_that_is_given_stays_as_it_is(self):
        image = noise(9, 12, 3)
        before = image.copy()
        mask_text(image, [rectangle(0, 0, 6, 6)])
        assert np.array_equal(image, before)

    def test_boxes_that_touch_are_one_region_and_others_are_not(self):
        image = np.zeros((9, 30), np.uint8)
        image[:, 15:] = 100
        apart = mask_text(image, [rectangle(3, 3, 6, 6), rectangle(20, 3, 24, 6)])
        assert np.array_equal(apart, image)
        image[3:6, 3:9] = 255
        assert not mask_text(image, [rectangle(3, 3, 6, 6), rectangle(6, 3, 9, 6)])[:, :15].any()
        assert mask_text(image, [rectangle(3, 3, 6, 6)])[4, 4]  # the other word is in the ring

    def test_a_box_in_another_box_is_painted_like_it(self):
        image = np.zeros((9, 12), np.uint8)
        image[2:7, 2:9] = 255
        boxes = [rectangle(2, 2, 9, 7), rectangle(4, 3, 6, 5)]
        assert not mask_text(image, boxes).any() and not mask_text(image, boxes[::-1]).any()

    @pytest.mark.parametrize("box", [(-2, -2, 4, 4), (9, 6, 20, 20), (-5, 3, 20, 5), (0, 0, 12, 4)])
    def test_at_an_edge_the_ring_is_what_of_it_is_in_the_image(self, box):
        left, top, right, bottom = box
        covered = covered_by([rectangle(*box)])
        wide = covered_by([rectangle(left - 1, top - 1, right + 1, bottom + 1)])
        image = noise(9, 12)
        masked = mask_text(image, [rectangle(*box)])
        assert (masked[covered] == np.floor(image[wide & ~covered].astype(int).mean() + 0.5)).all()
        assert np.array_equal(masked[~covered], image[~covered])

    def test_text_over_the_whole_image_leaves_its_mean(self):
        image = np.array([[0, 255], [255, 255]], np.uint8)
        assert (mask_text(image, [rectangle(-1, -1, 5, 5)]) == 191).all()

    @pytest.mark.parametrize("shape", [(9, 12), (9, 12, 1), (9, 12, 2), (9, 12, 3), (9, 12, 4)])
    def test_grey_color_and_alpha_images_keep_their_shape_and_type(self, shape):
        image = noise(*shape)
        masked = mask_text(image, [rectangle(2, 2, 8, 6)])
        assert masked.shape == shape and masked.dtype == np.uint8
        for channel in range(shape[2] if len(shape) == 3 else 0):  # each channel like a grey image
            alone = mask_text(image[:, :, channel], [rectangle(2, 2, 8, 6)])
            assert np.array_equal(masked[:, :, channel], alone)

    @given(polygons, st.randoms(use_true_random=False))
    @settings(deadline=None)
    def test_only_covered_pixels_change_once_and_in_any_order(self, boxes, random):
        image = noise(9, 12, 3)
        masked = mask_text(image, boxes)
        changed = np.count_nonzero((masked != image).any(axis=2))
        assert changed <= round(text_area(boxes, (12, 9)) * 108)
        assert np.array_equal(mask_text(masked, boxes), masked)
        shuffled = random.sample(boxes, len(boxes))
        assert np.array_equal(mask_text(image, shuffled), masked)
