# SPDX-License-Identifier: Apache-2.0
"""Directs the calls of a model in a run: by a plan, or measuring in order to make one."""
