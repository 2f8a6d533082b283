// SPDX-License-Identifier: GPL-3.0-or-later

module pifleet.lab/workload

go 1.26
