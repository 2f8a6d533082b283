# SPDX-License-Identifier: GPL-3.0-or-later
"""A public key made by gpg for these tests, and its fingerprint as gpg prints it."""

KEY = """-----BEGIN PGP PUBLIC KEY BLOCK-----

mDMEawYSehYJKwYBBAHaRw8BAQdABbry6/BXF761HyL9dnT+Va51DZOkqcssfA6e
yxgxWuq0I1Rlc3Qgb2YgcGFja2FnZXMgPHRlc3RAZXhhbXBsZS5vcmc+iJAEExYI
ADgWIQTb53eLimN6W4jhATc2dFACS7UAjAUCawYSegIbAwULCQgHAgYVCgkICwIE
FgIDAQIeAQIXgAAKCRA2dFACS7UAjI3ZAQCelN9HJlVW/bt7LOj2fvl4JilPoAJ5
/VkQYPCn52y3mwD7BfXyEpZ1a6jaZJnqblBZ6jcV1h/yeHhscn+dIX3hOQc=
=/dou
-----END PGP PUBLIC KEY BLOCK-----
"""
FINGERPRINT = "DBE7778B8A637A5B88E10137367450024BB5008C"
