// SPDX-License-Identifier: Apache-2.0
//
// Everything of Varve's public API: include this one.
#pragma once

#include "varve/engine.h"
#include "varve/result.h"
#include "varve/safe_point.h"
