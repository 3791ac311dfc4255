"""Pictures of others: any bit depth, colour model and profile comes as sRGB; huge ones shrunk; other kinds of file named."""

import io
import resource
import subprocess
import sys
import zlib

import numpy as np
import pytest
from PIL import Image, ImageCms, ImageOps, features

from avatar_core.errors import InputWarning, UserError
from avatar_core.io.images import contact_sheet, read_image
from avatar_core.io.letters import draw_line, fit_line, for_figures
from tests.io.foreign import ffmpeg

RAMP = np.linspace(0, 1, 96, dtype=np.float32)[None].repeat(80, 0)  # grey from left to right
SQUARE = np.zeros((80, 96), bool)
SQUARE[20:60, 20:60] = True


def rgb_profile(primaries, gamma):
    """An ICC profile of three primaries (xy each) and one gamma, white D65, as the ICC specification lays it out (v2, matrix)."""
    xyz = np.array([[x / y, 1, (1 - x - y) / y] for x, y in primaries]).T
    white = np.array([0.95047, 1.0, 1.08883])
    rgb = xyz * np.linalg.solve(xyz, white)
    bradford = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])
    d50 = np.array([0.9642, 1.0, 0.8249])
    adapt = np.linalg.inv(bradford) @ np.diag((bradford @ d50) / (bradford @ white)) @ bradford
    rgb = adapt @ rgb

    def fixed(values):
        return b"".join(int(round(v * 65536)).to_bytes(4, "big", signed=True) for v in values)

    curve = b"curv" + bytes(4) + (1).to_bytes(4, "big") + int(gamma * 256).to_bytes(2, "big") + bytes(2)
    name = b"wide"
    tags = {b"desc": b"desc" + bytes(4) + (len(name) + 1).to_bytes(4, "big") + name + bytes(79)}
    tags |= {b"wtpt": b"XYZ " + bytes(4) + fixed(d50), b"cprt": b"text" + bytes(4) + b"none\0"}
    for k, channel in enumerate(b"rgb"):
        tags |= {
            bytes([channel]) + b"XYZ": b"XYZ " + bytes(4) + fixed(rgb[:, k]),
            bytes([channel]) + b"TRC": curve,
        }
    return assemble(tags, b"RGB ")


def grey_profile(gamma):
    curve = b"curv" + bytes(4) + (1).to_bytes(4, "big") + int(gamma * 256).to_bytes(2, "big") + bytes(2)
    white = b"".join(int(round(v * 65536)).to_bytes(4, "big") for v in (0.9642, 1.0, 0.8249))
    name = b"desc" + bytes(4) + (5).to_bytes(4, "big") + b"grey\0" + bytes(78)
    return assemble({b"desc": name, b"wtpt": b"XYZ " + bytes(4) + white, b"kTRC": curve}, b"GRAY")


def assemble(tags, space):
    table, body = b"", b""
    start = 128 + 4 + 12 * len(tags)
    for name, content in tags.items():
        content += bytes(-len(content) % 4)
        table += name + (start + len(body)).to_bytes(4, "big") + len(content).to_bytes(4, "big")
        body += content
    head = (
        bytes(4)
        + b"lcms"
        + bytes([2, 0x10, 0, 0])
        + b"mntr"
        + space
        + b"XYZ "
        + bytes(12)
        + b"acsp"
        + bytes(28)
    )
    head += b"".join(int(round(v * 65536)).to_bytes(4, "big") for v in (0.9642, 1.0, 0.8249)) + bytes(48)
    profile = head + len(tags).to_bytes(4, "big") + table + body
    return len(profile).to_bytes(4, "big") + profile[4:]


DISPLAY_P3 = ((0.680, 0.320), (0.265, 0.690), (0.150, 0.060))
ADOBE = ((0.64, 0.33), (0.21, 0.71), (0.15, 0.06))


def test_deep_greys(tmp_path):
    deep = np.round(RAMP * 65535)
    Image.fromarray(deep.astype(np.uint16)).save(tmp_path / "16.png")
    Image.fromarray(deep.astype(np.uint16)).save(tmp_path / "16.tif")
    Image.fromarray(RAMP).save(tmp_path / "float.tif")
    Image.fromarray(RAMP * 255).save(tmp_path / "float255.tif")
    Image.fromarray(deep.astype(np.int32)).save(tmp_path / "int.tif")
    for name in ("16.png", "16.tif", "float.tif", "float255.tif", "int.tif"):
        np.testing.assert_allclose(
            read_image(tmp_path / name), RAMP[..., None].repeat(3, 2), atol=0.004, err_msg=name
        )
    bad = RAMP.copy()
    bad[3, 3] = np.nan
    Image.fromarray(bad).save(tmp_path / "nan.tif")
    with pytest.raises(UserError, match="finite pixels"):
        read_image(tmp_path / "nan.tif")


@pytest.mark.parametrize(
    ("ending", "pixels"),
    [("png", p) for p in ("rgb48be", "rgba64be", "ya16be", "gray16be", "ya8", "monob", "rgb24", "gray10be")]
    + [("tiff", p) for p in ("rgb48le", "rgba64le", "gray16le", "rgb24", "monob")],
)
def test_depths_of_other_programs(tmp_path, ending, pixels):
    half = "color=black:s=96x80,drawbox=c=white:t=fill:w=48"
    ffmpeg("-f", "lavfi", "-i", half, "-frames:v", 1, "-pix_fmt", pixels, tmp_path / f"a.{ending}")
    image = read_image(tmp_path / f"a.{ending}")
    np.testing.assert_allclose(image[40, [10, 80]], [[1] * 3, [0] * 3], atol=0.01)


def test_colour_models(tmp_path):
    rgb = np.stack([RAMP, RAMP[:, ::-1], np.full_like(RAMP, 0.4)], 2)
    picture = Image.fromarray((rgb * 255 + 0.5).astype(np.uint8))
    picture.convert("CMYK").save(tmp_path / "cmyk.jpg", quality=98)
    picture.convert("CMYK").save(tmp_path / "cmyk.tif")
    lab = ImageCms.profileToProfile(
        picture, ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), outputMode="LAB"
    )
    lab.save(tmp_path / "lab.tif")
    picture.quantize(200).save(tmp_path / "palette.gif")
    picture.save(tmp_path / "a.avif", quality=95)
    picture.save(tmp_path / "a.jp2")
    picture.save(tmp_path / "a.webp", lossless=True)
    for name in ("cmyk.jpg", "cmyk.tif", "lab.tif", "palette.gif", "a.avif", "a.jp2", "a.webp"):
        assert np.abs(read_image(tmp_path / name) - rgb).mean() < 0.012, name


def test_what_is_transparent_is_left_out(tmp_path):
    shown = np.where(SQUARE, 200, 60).astype(np.uint8)
    opacity = Image.fromarray((SQUARE * 255).astype(np.uint8))
    grey = Image.fromarray(shown)
    palette = Image.fromarray(SQUARE.astype(np.uint8), mode="P")
    palette.putpalette([60, 60, 60, 200, 200, 200])
    palette.save(tmp_path / "p.png", transparency=b"\0\xff")
    grey.save(tmp_path / "l.png", transparency=60)
    grey.convert("RGB").save(tmp_path / "rgb.png", transparency=(60, 60, 60))
    Image.fromarray(shown.astype(np.uint16) * 257).save(tmp_path / "16.png", transparency=60 * 257)
    Image.merge("LA", (grey, opacity)).save(tmp_path / "la.png")
    Image.fromarray(SQUARE).save(tmp_path / "1.png")
    for name in ("p.png", "l.png", "rgb.png", "16.png", "la.png"):
        image = read_image(tmp_path / name, background=0.5)
        np.testing.assert_allclose(image[[40, 5], [40, 5], 0], [200 / 255, 0.5], atol=0.003, err_msg=name)
    np.testing.assert_allclose(read_image(tmp_path / "1.png")[[40, 5], [40, 5], 1], [1, 0])


@pytest.mark.parametrize("ending", ["png", "jpg", "webp", "avif", "tif"])
def test_wide_colours_become_srgb(tmp_path, ending):
    """Display P3's (0.6, 0.5, 0.4), gamma 2.2, is sRGB's (0.615, 0.497, 0.388) by the two spaces' definitions."""
    flat = Image.new("RGB", (80, 80), (153, 128, 102))
    flat.save(tmp_path / f"a.{ending}", icc_profile=rgb_profile(DISPLAY_P3, 2.2), quality=100)
    np.testing.assert_allclose(
        read_image(tmp_path / f"a.{ending}")[40, 40], srgb_of(DISPLAY_P3, 2.2, (153, 128, 102)), atol=0.012
    )


def srgb_of(primaries, gamma, levels):
    """By the definition: to linear, to XYZ, to linear sRGB, to display values."""

    def to_xyz(points):
        xyz = np.array([[x / y, 1, (1 - x - y) / y] for x, y in points]).T
        return xyz * np.linalg.solve(xyz, [0.95047, 1.0, 1.08883])

    srgb = to_xyz(((0.64, 0.33), (0.30, 0.60), (0.15, 0.06)))
    linear = np.linalg.solve(srgb, to_xyz(primaries) @ (np.array(levels) / 255) ** gamma)
    return np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * np.clip(linear, 0, 1) ** (1 / 2.4) - 0.055)


def test_other_profiles(tmp_path):
    grey = Image.new("L", (80, 80), 128)
    grey.save(tmp_path / "grey.png", icc_profile=grey_profile(1.0))  # linear light: half is 188 of 255
    np.testing.assert_allclose(read_image(tmp_path / "grey.png")[0, 0], 188 / 255, atol=0.01)
    grey.save(tmp_path / "grey_with_rgb.png", icc_profile=rgb_profile(DISPLAY_P3, 1.0))
    np.testing.assert_allclose(read_image(tmp_path / "grey_with_rgb.png")[0, 0], 188 / 255, atol=0.01)
    flat = Image.new("RGBA", (80, 80), (153, 128, 102, 255))
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    flat.save(tmp_path / "srgb.png", icc_profile=srgb)
    np.testing.assert_array_equal(
        read_image(tmp_path / "srgb.png")[0, 0], np.float32([153, 128, 102]) / np.float32(255)
    )
    for broken in (b"not a profile" * 20, srgb[:200]):
        flat.save(tmp_path / "broken.png", icc_profile=broken)
        with pytest.warns(InputWarning, match=r"broken\.png: its colour profile"):
            np.testing.assert_allclose(
                read_image(tmp_path / "broken.png")[0, 0] * 255, [153, 128, 102], atol=1
            )
    cmyk = Image.new("CMYK", (80, 80), (0, 120, 120, 20))
    cmyk.save(
        tmp_path / "cmyk.jpg", icc_profile=rgb_profile(ADOBE, 2.2), quality=100
    )  # a profile of other pixels
    with pytest.warns(InputWarning, match="does not fit"):
        read_image(tmp_path / "cmyk.jpg")


def test_a_camera_set_to_adobe_rgb_says_so_in_its_exif(tmp_path):
    flat = Image.new("RGB", (80, 80), (153, 128, 102))
    exif = flat.getexif()
    exif.get_ifd(0x8769)[0xA005] = {1: "R03"}
    flat.save(tmp_path / "a.jpg", exif=exif, quality=100)
    np.testing.assert_allclose(
        read_image(tmp_path / "a.jpg")[4, 4], srgb_of(ADOBE, 2.2, (153, 128, 102)), atol=0.012
    )


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("ending", ["jpg", "png", "webp", "tif", "avif"])
def test_upright_by_any_orientation(tmp_path, orientation, ending):
    upright = Image.new("L", (120, 80))
    upright.paste(255, (0, 0, 40, 30))  # white top left
    undo = {1: None, 2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}[
        orientation
    ]  # PIL's transpositions; those of 6 and 8 are inverse
    stored = upright if undo is None else upright.transpose(Image.Transpose(undo))
    exif = stored.getexif()
    exif[0x0112] = orientation
    assert ImageOps.exif_transpose(stored).size == (120, 80)
    stored.convert("RGB").save(tmp_path / f"a.{ending}", exif=exif)
    image = read_image(tmp_path / f"a.{ending}")
    assert (
        image.shape == (80, 120, 3)
        and image[15, 20, 0] > 0.9
        and image[[15, 70, 70], [100, 20, 100]].max() < 0.1
    )


def test_the_first_of_several_pictures(tmp_path):
    first, second = Image.new("RGB", (80, 80), (200, 40, 40)), Image.new("RGB", (80, 80), (0, 0, 255))
    first.save(
        tmp_path / "a.mpo", save_all=True, append_images=[second]
    )  # telephones add a depth or brightness map
    for ending in ("gif", "webp", "png", "tif"):
        first.copy().save(tmp_path / f"a.{ending}", save_all=True, append_images=[second.copy()])
    for ending in ("mpo", "gif", "webp", "png", "tif"):
        np.testing.assert_allclose(read_image(tmp_path / f"a.{ending}")[40, 40] * 255, (200, 40, 40), atol=6)


def test_a_hundred_megapixels_are_shrunk_while_they_are_decoded(tmp_path):
    large = Image.new("L", (12000, 9000))
    large.paste(255, (6000, 0, 12000, 9000))
    large.save(tmp_path / "a.jpg", quality=60)
    code = (
        "import sys, resource; from avatar_core.io.images import read_image\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "image = read_image(sys.argv[1])\n"
        "print(*image.shape, image[100, 100, 0], image[100, -100, 0])\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "a.jpg")], capture_output=True, text=True, check=True
    )
    height, width, _, dark, bright, kilobytes = map(float, done.stdout.split())
    assert max(height, width) <= 4096 and width >= 2000 and abs(width / height - 4 / 3) < 0.001
    assert dark < 0.1 and bright > 0.9
    assert kilobytes < 450_000  # decoded whole it would be 1728 MB as floats with opacity


def test_bombs_are_refused_before_they_are_decoded(tmp_path):
    def claim(path, side):  # a PNG whose header promises side x side pixels
        header = b"IHDR" + side.to_bytes(4, "big") * 2 + bytes([8, 2, 0, 0, 0])
        data = b"IDAT" + zlib.compress(bytes(1000))
        chunks = [
            (len(c) - 4).to_bytes(4, "big") + c + zlib.crc32(c).to_bytes(4, "big") for c in (header, data)
        ]
        path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunks))

    claim(tmp_path / "bomb.png", 16000)
    claim(tmp_path / "bigger.png", 40000)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(UserError, match="128 megapixels at most, found 16000 x 16000"):
        read_image(tmp_path / "bomb.png")
    with pytest.raises(UserError, match="40000 x 40000"):
        read_image(tmp_path / "bigger.png")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000


def test_another_kind_of_file_is_named(tmp_path):
    heic = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(400)
    (tmp_path / "me.jpg").write_bytes(heic)
    with pytest.raises(UserError, match=r"found a picture \(HEIC\): save it as JPEG or PNG first"):
        read_image(tmp_path / "me.jpg")
    ffmpeg("-f", "lavfi", "-i", "sine=d=0.2", tmp_path / "me.wav")
    ffmpeg("-f", "lavfi", "-i", "color=s=64x64:d=0.2", tmp_path / "me.mp4")
    for name, found in (
        ("me.wav", r"a recording \(WAV\)"),
        ("me.mp4", r"a video \(MP4 or MOV\): save one of its frames"),
    ):
        with pytest.raises(UserError, match=rf"expected an image .*, found {found}"):
            read_image(tmp_path / name)


@pytest.mark.parametrize("ending", ["jpg", "png", "webp", "avif", "tif", "gif"])
def test_a_picture_cut_off_is_refused(tmp_path, ending):
    noise = np.random.default_rng(0).integers(0, 255, (200, 200, 3), dtype=np.uint8)
    content = io.BytesIO()
    Image.fromarray(noise).save(content, format={"jpg": "jpeg", "tif": "tiff"}.get(ending, ending))
    for share in (0.5, 0.05):
        (tmp_path / f"a.{ending}").write_bytes(content.getvalue()[: int(len(content.getvalue()) * share)])
        with pytest.raises(UserError, match=rf"a\.{ending}: expected"):
            read_image(tmp_path / f"a.{ending}")


def test_captions_in_any_script(tmp_path):
    assert features.check("freetype2")
    ink = {
        text: draw_line(text, 12)
        for text in ("n", "ñ", "é", "中", "你", "한", "カ", "привет", "U+0928 ", "\u0928")
    }
    assert all(part.max() > 128 for part in ink.values())
    shapes = [part.tobytes() for text, part in ink.items() if text not in ("U+0928 ", "\u0928")]
    assert len(set(shapes)) == len(shapes)  # no two are the same empty box
    np.testing.assert_array_equal(ink["\u0928"], ink["U+0928 "])  # what no font has is its number
    assert fit_line("中文" * 40, 12, 100).shape[1] <= 100
    assert for_figures("señor 中") == "señor U+4E2D "
    for name in ("a", "b"):
        contact_sheet(tmp_path / f"{name}.png", [RAMP], ["señor 中文"], title="你好")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
