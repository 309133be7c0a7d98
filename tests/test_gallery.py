"""Sheets: every image in its place, under a title that fits."""

from PIL import Image

from detsd.gallery import LEAST_SIDE, MARGIN, sheet

COLORS = ["red", "green", "blue", "yellow", "black"]


def test_a_sheet_has_every_image_row_by_row_under_its_title():
    images = [Image.new("RGB", (200, 150), color) for color in COLORS]
    page = sheet(images, 2, "step 3: a photo of a det-logo")
    assert page.width == 2 * 200 + 3 * MARGIN
    top = page.height - 3 * (150 + MARGIN)
    for place, color in enumerate(COLORS):
        row, column = divmod(place, 2)
        spot = (MARGIN + column * (200 + MARGIN) + 100, top + row * (150 + MARGIN) + 75)
        assert page.getpixel(spot) == Image.new("RGB", (1, 1), color).getpixel((0, 0))
    title = page.crop((0, 0, page.width, top))
    assert title.convert("L").getextrema()[0] < 100  # something is written there


def test_a_tiny_models_picture_is_shown_in_larger_pixels():
    page = sheet([Image.new("RGB", (16, 16), "red")], 1, "a " * 100)
    red = sum(
        page.getpixel((x, page.height - MARGIN - 1)) == (255, 0, 0) for x in range(page.width)
    )
    assert red == LEAST_SIDE


def test_a_long_title_makes_the_page_taller_and_not_the_lines_longer():
    image = Image.new("RGB", (512, 512))
    assert sheet([image], 1, "word " * 100).height > sheet([image], 1, "word").height
