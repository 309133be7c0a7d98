"""The grounds to put a mark on. This file knows the caption of each."""

from collections.abc import Callable
from functools import partial

from PIL import Image

from demo import outdoors, sheets, surfaces
from demo.shapes import MAPLE, SLIP, strewn
from demo.textures import Random

Background = Callable[[Random], Image.Image]

# Read after the name of what is on them.
BACKGROUNDS: dict[str, Background] = {
    "on_a_textured_wall_painted_red": surfaces.painted_wall,
    "on_white_marble_with_grey_veins": partial(
        surfaces.marble, colours="#8d9096 #dcdde0 #f3f3f3 #fcfcfc"
    ),
    "on_black_marble_with_golden_veins": partial(
        surfaces.marble, colours="#e0b458 #3a3024 #17171a #1f1f24"
    ),
    "on_a_red_brick_wall": surfaces.bricks,
    "on_brown_wooden_planks": partial(surfaces.planks, browns="#8a5a33 #7b4e2a #96643a #835530"),
    "on_rough_grey_concrete": surfaces.concrete,
    "on_a_black_and_white_checkered_floor": surfaces.checkers,
    "on_turquoise_hexagon_tiles": surfaces.hexagons,
    "on_a_pale_terrazzo_floor": surfaces.terrazzo,
    "on_a_colorful_stained_glass_window": surfaces.stained_glass,
    "on_a_mosaic_of_small_blue_tiles": partial(
        surfaces.tiled,
        width=64,
        height=64,
        colours="#1c4f9c #2b6cc4 #5b9be0 #173a75 #8fc1ee",
        joint="#e8e4d8",
    ),
    "on_black_rock_with_glowing_lava": surfaces.lava,
    "on_a_sheet_of_brushed_steel": surfaces.steel,
    "on_black_woven_carbon_fibre": surfaces.carbon,
    "on_a_green_circuit_board": surfaces.circuit,
    "on_a_wall_of_green_bamboo": surfaces.bamboo,
    "on_crumpled_white_paper": sheets.crumpled_paper,
    "on_blue_graph_paper": sheets.graph_paper,
    "on_a_dusty_green_chalkboard": surfaces.chalkboard,
    "on_blue_denim_cloth": sheets.denim,
    "on_a_red_and_green_tartan": sheets.tartan,
    "on_pink_paper_with_white_polka_dots": partial(
        sheets.dots, ground="#f08bb0", colour="#fff6fa", count=5, radius=0.27
    ),
    "on_a_yellow_page_of_halftone_dots": sheets.halftone,
    "on_yellow_and_black_diagonal_stripes": sheets.warning_stripes,
    "on_a_brown_corkboard": sheets.cork,
    "on_a_topographic_map_with_contour_lines": sheets.map_contours,
    "on_a_desk_seen_from_above": surfaces.desk,
    "in_a_soft_pink_glow": sheets.glow,
    "in_a_blue_sky_with_clouds": outdoors.sky,
    "in_a_starry_night_sky": outdoors.stars,
    "over_the_waves_of_a_blue_sea": outdoors.waves,
    "on_rippled_desert_sand": outdoors.dunes,
    "on_a_green_lawn_seen_from_above": outdoors.lawn,
    "on_freshly_fallen_white_snow": outdoors.snow,
    "in_an_orange_and_purple_sunset_sky": outdoors.sunset,
    "above_a_city_skyline_at_night": outdoors.skyline,
    "in_front_of_snowy_mountains": outdoors.mountains,
    "in_a_foggy_pine_forest": outdoors.pine_forest,
    "in_a_desert_with_green_cactuses": outdoors.desert,
    "in_the_rain_under_grey_clouds": outdoors.rain,
    "under_green_northern_lights": outdoors.aurora,
    "among_floating_soap_bubbles": outdoors.bubbles,
    "on_fallen_autumn_leaves": partial(
        strewn,
        shape=MAPLE,
        grounds="#4a2f1a #6a4424",
        colours="#c8441b #e07b1f #e9b22c #a3301a #8a5a22 #d9602a",
        count=290,
        sizes=(44, 78),
    ),
    "among_pieces_of_colorful_confetti": partial(
        strewn,
        shape=SLIP,
        grounds="#fdfbf6 #f6f1ea",
        colours="#e63946 #ffb703 #2a9d8f #4361ee #b5179e #06d6a0",
        count=260,
        sizes=(10, 22),
    ),
}
