// SPDX-License-Identifier: Apache-2.0
//
// Passing errors up: VARVE_TRY(expr) and VARVE_TRY_ASSIGN(declaration, expr).
#pragma once

#include "varve/result.h"

#define VARVE_CONCAT_INNER(a, b) a##b
#define VARVE_CONCAT(a, b) VARVE_CONCAT_INNER(a, b)

/// Evaluates a Status or Result; on error returns it from the enclosing function.
#define VARVE_TRY(...)                                            \
  do {                                                            \
    auto varve_status_ = (__VA_ARGS__);                           \
    if (!varve_status_.has_value()) return varve_status_.error(); \
  } while (false)

/// VARVE_TRY_ASSIGN(auto file, io.open(name)): on error returns it, else assigns the value.
#define VARVE_TRY_ASSIGN(declaration, ...) \
  VARVE_TRY_ASSIGN_INNER(VARVE_CONCAT(varve_result_, __LINE__), declaration, __VA_ARGS__)
#define VARVE_TRY_ASSIGN_INNER(result, declaration, ...) \
  auto result = (__VA_ARGS__);                           \
  if (!result.has_value()) return result.error();        \
  declaration = std::move(result).value()
