"""Deferred shading of a visibility buffer into 8-bit sRGB and alpha.

Each pixel holds S x S visibility samples. Where all of them show one continuous piece of skin or cloth the pixel is shaded
once (as multisampling hardware does), else per sample. Lighting: key with a shadow map, fill, two rims, sky; wrapped
diffuse with a wider red lobe imitates light under the skin; hair follows Kajiya and Kay.

Material kinds: 0 skin, 1 eye, 2 teeth, 3 tongue, 4 lash, 5 cloth, 6 hair, 7 shoe. Material row (16 float32):
kind, spec, gloss, wrap, r2, g2, b2, pattern (for eyes: iris radius), scale (for shoes: height of the sole), fold, fold
frequency, shadow bias, fresnel, closure, closure low end, front plane y. See `patterns` for the cloth codes.

numba caches a compiled kernel until its own file changes: after editing `lighting`, `patterns` or `noise`, touch this file.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from avatar_core.procedural.people.lighting import key_light, srgb
from avatar_core.procedural.people.noise import noise3
from avatar_core.procedural.people.patterns import closure_shade, folds, hem_shade, pattern


@njit(fastmath=True, cache=True, nogil=True, error_model="numpy")
def shade(
    depth: np.ndarray,
    owner: np.ndarray,
    screen: np.ndarray,
    triangles: np.ndarray,
    material: np.ndarray,
    points: np.ndarray,
    normals: np.ndarray,
    uv: np.ndarray,
    template: np.ndarray,
    cut: np.ndarray,
    ao: np.ndarray,
    color: np.ndarray,
    texture: np.ndarray,
    table: np.ndarray,
    eye: np.ndarray,
    lamps: np.ndarray,
    shadow: np.ndarray,
    to_shadow: np.ndarray,
    samples: int,
    pixel: float,
    background: np.ndarray,
    rgb: np.ndarray,
    alpha: np.ndarray,
) -> None:
    """Shade an owner image (H S, W S) into rgb (H, W, 3) uint8 over background (H, W, 3) float sRGB; alpha (H, W) uint8.

    pixel: footprint of a pixel in metres, to filter fine patterns and noise. Screen points carry 1/depth, so attributes are
    perspective-correct.
    """
    height, width = rgb.shape[0], rgb.shape[1]
    size = texture.shape[0]
    full = samples * samples
    detail = min(1.0, max(0.0, 1.6 - pixel / 0.0014))
    for py in range(height):
        for px in range(width):
            y0 = py * samples
            x0 = px * samples
            covered = 0
            first = -1
            near = 0.0
            far = 1e9
            same = True
            for j in range(samples):
                for i in range(samples):
                    t = owner[y0 + j, x0 + i]
                    if t < 0:
                        continue
                    covered += 1
                    z = depth[y0 + j, x0 + i]
                    near = max(near, z)
                    far = min(far, z)
                    if first < 0:
                        first = t
                    elif material[t] != material[first]:
                        same = False
            if covered == 0:
                for c in range(3):
                    rgb[py, px, c] = int(min(max(background[py, px, c], 0.0), 1.0) * 255 + 0.5)
                alpha[py, px] = 0
                continue
            kind = int(table[material[first], 0])
            once = (
                same
                and covered == full
                and kind != 6
                and kind != 4
                and kind != 1
                and near - far < 0.006 * near
            )
            shaded = 0
            skip = (
                same and covered == full and kind == 6 and samples == 2
            )  # hair: the two diagonal samples do
            total_r = 0.0
            total_g = 0.0
            total_b = 0.0
            for sample in range(1 if once else full):
                if once:
                    t = owner[y0 + samples // 2, x0 + samples // 2]
                    sx = x0 + 0.5 * samples
                    sy = y0 + 0.5 * samples
                else:
                    if skip and (sample == 1 or sample == 2):
                        continue
                    t = owner[y0 + sample // samples, x0 + sample % samples]
                    if t < 0:
                        continue
                    sx = x0 + sample % samples + 0.5
                    sy = y0 + sample // samples + 0.5
                shaded += 1
                i0 = triangles[t, 0]
                i1 = triangles[t, 1]
                i2 = triangles[t, 2]
                ax = screen[i0, 0]
                ay = screen[i0, 1]
                bx = screen[i1, 0]
                by = screen[i1, 1]
                cx = screen[i2, 0]
                cy = screen[i2, 1]
                inv = 1.0 / ((bx - ax) * (cy - ay) - (cx - ax) * (by - ay))
                w0 = ((bx - sx) * (cy - sy) - (cx - sx) * (by - sy)) * inv
                w1 = ((cx - sx) * (ay - sy) - (ax - sx) * (cy - sy)) * inv
                if once:  # the pixel centre may lie just outside this triangle
                    w0 = min(max(w0, -0.5), 1.5)
                    w1 = min(max(w1, -0.5), 1.5)
                w2 = 1 - w0 - w1
                w0 *= screen[i0, 2]
                w1 *= screen[i1, 2]
                w2 *= screen[i2, 2]
                s = 1.0 / (w0 + w1 + w2)
                w0 *= s
                w1 *= s
                w2 *= s
                x = w0 * points[i0, 0] + w1 * points[i1, 0] + w2 * points[i2, 0]
                y = w0 * points[i0, 1] + w1 * points[i1, 1] + w2 * points[i2, 1]
                z = w0 * points[i0, 2] + w1 * points[i1, 2] + w2 * points[i2, 2]
                nx = w0 * normals[i0, 0] + w1 * normals[i1, 0] + w2 * normals[i2, 0]
                ny = w0 * normals[i0, 1] + w1 * normals[i1, 1] + w2 * normals[i2, 1]
                nz = w0 * normals[i0, 2] + w1 * normals[i1, 2] + w2 * normals[i2, 2]
                tx = w0 * template[i0, 0] + w1 * template[i1, 0] + w2 * template[i2, 0]
                ty = w0 * template[i0, 1] + w1 * template[i1, 1] + w2 * template[i2, 1]
                tz = w0 * template[i0, 2] + w1 * template[i1, 2] + w2 * template[i2, 2]
                open_ = w0 * ao[i0] + w1 * ao[i1] + w2 * ao[i2]
                cr = color[i0, 0] * w0 + color[i1, 0] * w1 + color[i2, 0] * w2
                cg = color[i0, 1] * w0 + color[i1, 1] * w1 + color[i2, 1] * w2
                cb = color[i0, 2] * w0 + color[i1, 2] * w1 + color[i2, 2] * w2
                vx = eye[0] - x
                vy = eye[1] - y
                vz = eye[2] - z
                s = 1.0 / math.sqrt(vx * vx + vy * vy + vz * vz)
                vx *= s
                vy *= s
                vz *= s
                m = material[t]
                kind = int(table[m, 0])
                spec = table[m, 1]
                gloss = table[m, 2]
                wrap = table[m, 3]
                if kind == 0:
                    fu = (w0 * uv[i0, 0] + w1 * uv[i1, 0] + w2 * uv[i2, 0]) * size - 0.5
                    fv = (1 - (w0 * uv[i0, 1] + w1 * uv[i1, 1] + w2 * uv[i2, 1])) * size - 0.5
                    iu = min(max(int(fu), 0), size - 2)
                    iv = min(max(int(fv), 0), size - 2)
                    du = fu - iu
                    dv = fv - iv
                    a00 = (1 - du) * (1 - dv)
                    a10 = du * (1 - dv)
                    a01 = (1 - du) * dv
                    a11 = du * dv
                    q = texture[iv, iu]
                    r = texture[iv, iu + 1]
                    u = texture[iv + 1, iu]
                    v = texture[iv + 1, iu + 1]
                    cr = a00 * q[0] + a10 * r[0] + a01 * u[0] + a11 * v[0]
                    cg = a00 * q[1] + a10 * r[1] + a01 * u[1] + a11 * v[1]
                    cb = a00 * q[2] + a10 * r[2] + a01 * u[2] + a11 * v[2]
                    spec *= a00 * q[3] + a10 * r[3] + a01 * u[3] + a11 * v[3]
                    if detail > 0:
                        e = noise3(tx * 700, ty * 700, tz * 700) * 0.030 * detail
                        nx += e
                        ny += e * 0.5
                        nz -= e
                    e = noise3(tx * 230 + 5, ty * 230, tz * 230)
                    nx += e * 0.022
                    nz += noise3(tx * 210, ty * 210 + 3, tz * 210) * 0.022
                    spec *= 1 + 0.35 * e
                elif kind == 1:  # template holds the eye-local unit direction
                    rr = math.sqrt(tx * tx + tz * tz)
                    if ty > 0:
                        rr = 2 - rr
                    iris = table[m, 7]
                    ir = table[m, 4]
                    ig = table[m, 5]
                    ib = table[m, 6]
                    if rr < iris:
                        k = rr / iris
                        if k < 0.42:
                            cr = 0.004
                            cg = 0.004
                            cb = 0.004
                        else:
                            c = tx / rr
                            q0 = tz / rr
                            st = 0.75 + 0.35 * noise3(c * 9, q0 * 9, rr * 6)
                            st *= (1 - 0.75 * max(0.0, (k - 0.78) / 0.22)) * (1.25 - 0.35 * (tz / iris))
                            cr = ir * st
                            cg = ig * st
                            cb = ib * st
                    else:
                        k = min(1.0, (rr - iris) / 0.5)
                        k2 = min(1.0, (rr - iris) / 0.05)
                        cr = (0.60 - 0.10 * k) * k2 + ir * 0.3 * (1 - k2)
                        cg = (0.55 - 0.18 * k) * k2 + ig * 0.3 * (1 - k2)
                        cb = (0.53 - 0.19 * k) * k2 + ib * 0.3 * (1 - k2)
                    open_ *= 1 - 0.62 * max(0.0, min(1.0, (tz - 0.02) / 0.33))
                elif kind == 2:
                    side = min(1.0, abs(tx) / 0.030)
                    open_ = 0.55 * (1 - side * side * 0.75)
                    st = (0.80 + 0.20 * min(1.0, abs(math.sin(tx * 402.77)) * 2.5)) * open_
                    cr *= st * 1.5
                    cg *= st * 1.5
                    cb *= st * 1.45
                elif kind == 3:
                    open_ *= 0.5
                elif kind == 5 or kind == 7:
                    if kind == 7:
                        f = 1.0 if tz < table[m, 8] else 0.0
                    else:
                        f = pattern(int(table[m, 7]), table[m, 8], tx, ty, tz, pixel)
                    cr += (table[m, 4] - cr) * f
                    cg += (table[m, 5] - cg) * f
                    cb += (table[m, 6] - cb) * f
                    f = hem_shade(w0 * cut[i0] + w1 * cut[i1] + w2 * cut[i2], pixel)
                    if table[m, 13] > 0:
                        g, shine = closure_shade(
                            int(table[m, 13]), table[m, 14], tx, ty, tz, table[m, 15], pixel
                        )
                        f *= g
                        spec += shine
                    cr *= f
                    cg *= f
                    cb *= f
                    if detail > 0:
                        weave = 1 + 0.09 * detail * noise3(tx * 900, ty * 900, tz * 900)
                        cr *= weave
                        cg *= weave
                        cb *= weave
                    fold = table[m, 9]
                    if fold > 0:
                        ff = table[m, 10]
                        n0 = folds(tx, ty, tz, ff)
                        nx -= fold * (folds(tx + 0.004, ty, tz, ff) - n0) * 2.5
                        nz -= fold * (folds(tx, ty, tz + 0.004, ff) - n0) * 2.5
                        open_ *= 0.92 + 0.08 * n0
                s = 1.0 / math.sqrt(nx * nx + ny * ny + nz * nz + 1e-9)
                nx *= s
                ny *= s
                nz *= s
                nv = nx * vx + ny * vy + nz * vz
                if nv < 0 and kind != 6:
                    nx = -nx
                    ny = -ny
                    nz = -nz
                    nv = -nv
                    if kind == 5 or kind == 7:
                        open_ *= 0.45
                lit = key_light(shadow, to_shadow, x, y, z, table[m, 11])
                out_r = 0.0
                out_g = 0.0
                out_b = 0.0
                spec_r = 0.0
                spec_g = 0.0
                spec_b = 0.0
                for k in range(lamps.shape[0]):
                    lx = lamps[k, 0]
                    ly = lamps[k, 1]
                    lz = lamps[k, 2]
                    sh = lit if k == 0 else 0.55 + 0.45 * open_
                    nl = nx * lx + ny * ly + nz * lz
                    if kind == 6:  # template holds the world-space strand tangent
                        tl = tx * lx + ty * ly + tz * lz
                        tv = tx * vx + ty * vy + tz * vz
                        sl = math.sqrt(max(0.0, 1 - tl * tl))
                        sv = math.sqrt(max(0.0, 1 - tv * tv))
                        dn = max(0.0, min(1.0, (nl + 0.55) / 1.55)) * sh
                        d = dn * (0.35 + 0.65 * sl)
                        th = max(0.0, sl * sv - tl * tv)
                        th2 = th * th
                        th4 = th2 * th2
                        th8 = th4 * th4
                        wide = th8 * th4 * th2 * dn * spec * 0.9
                        th16 = th8 * th8
                        th32 = th16 * th16
                        sharp = th32 * th16 * th8 * th4 * 0.30 * dn * spec
                        out_r += lamps[k, 3] * (cr * (d + wide) + sharp * 0.8)
                        out_g += lamps[k, 4] * (cg * (d + wide) + sharp * 0.75)
                        out_b += lamps[k, 5] * (cb * (d + wide) + sharp * 0.7)
                        continue
                    shr = sh
                    wg = wrap
                    wb = wrap
                    if kind == 0:
                        wg = wrap * 0.35
                        wb = wrap * 0.25
                        shr = math.sqrt(sh) * 0.5 + sh * 0.5
                    out_r += lamps[k, 3] * max(0.0, (nl + wrap) / (1 + wrap)) * shr * cr
                    out_g += lamps[k, 4] * max(0.0, (nl + wg) / (1 + wg)) * sh * cg
                    out_b += lamps[k, 5] * max(0.0, (nl + wb) / (1 + wb)) * sh * cb
                    if nl <= 0:
                        continue
                    hx = lx + vx
                    hy = ly + vy
                    hz = lz + vz
                    s = 1.0 / math.sqrt(hx * hx + hy * hy + hz * hz + 1e-9)
                    nh = max(1e-6, (nx * hx + ny * hy + nz * hz) * s)
                    vh = 1 - max(0.0, (vx * hx + vy * hy + vz * hz) * s)
                    fr = 0.04 + 0.96 * vh * vh * vh * vh * vh
                    lobe = math.exp(gloss * math.log(nh)) * (gloss + 2)
                    if kind == 0:
                        lobe += 0.6 * math.exp(gloss * 0.3 * math.log(nh)) * (gloss * 0.3 + 2)
                    sp = spec * fr * lobe * 0.125 * nl * sh
                    spec_r += lamps[k, 3] * sp
                    spec_g += lamps[k, 4] * sp
                    spec_b += lamps[k, 5] * sp
                h = 0.5 + 0.5 * nz
                ao_r = open_
                ao_g = open_
                ao_b = open_
                if kind == 0:
                    ao_r = open_**0.7
                    ao_b = open_ * (0.85 + 0.15 * open_)
                grazing = (1 - max(0.0, nv)) ** 2
                rim = grazing * grazing * 0.10 * open_ * table[m, 12]
                out_r += cr * (0.30 * h + 0.16 * (1 - h)) * ao_r + spec_r * open_ + rim
                out_g += cg * (0.31 * h + 0.14 * (1 - h)) * ao_g + spec_g * open_ + rim
                out_b += cb * (0.34 * h + 0.13 * (1 - h)) * ao_b + spec_b * open_ + rim
                total_r += out_r / (1 + 0.18 * out_r)  # soft shoulder before the filter: highlights antialias
                total_g += out_g / (1 + 0.18 * out_g)
                total_b += out_b / (1 + 0.18 * out_b)
            s = 1.12 / shaded
            a = covered / full
            rgb[py, px, 0] = int((srgb(total_r * s) * a + background[py, px, 0] * (1 - a)) * 255 + 0.5)
            rgb[py, px, 1] = int((srgb(total_g * s) * a + background[py, px, 1] * (1 - a)) * 255 + 0.5)
            rgb[py, px, 2] = int((srgb(total_b * s) * a + background[py, px, 2] * (1 - a)) * 255 + 0.5)
            alpha[py, px] = int(a * 255 + 0.5)
