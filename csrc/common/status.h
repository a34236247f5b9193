// SPDX-License-Identifier: Apache-2.0
// What a launcher returns: nullptr, or a message with static storage. Launchers never throw or
// exit.
#pragma once

namespace genaccel {
using Status = const char*;
}  // namespace genaccel
