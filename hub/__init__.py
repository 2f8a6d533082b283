# SPDX-License-Identifier: GPL-3.0-or-later
"""The hub: one HTTP program, a thin layer over ``plugin_utils``.

``app`` puts it together, ``auth`` says who calls, ``problems`` turns every error into problem+json, and each group of paths has a module of
its own (``evidence``). ``cli`` serves it and manages its tokens.
"""
