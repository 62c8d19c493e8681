# SPDX-License-Identifier: Apache-2.0
# Run at each build: writes the version and the commit into OUTPUT, which changes only when they do.
set(VARVE_COMMIT "unknown")
if(EXISTS ${SOURCE_DIR}/.git)
  set(ENV{GIT_OPTIONAL_LOCKS} 0)  # a build must not take the index lock from under somebody's commit
  execute_process(
    COMMAND git -C ${SOURCE_DIR} describe --always --dirty --abbrev=12
    OUTPUT_VARIABLE commit RESULT_VARIABLE failed OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET)
  if(NOT failed AND NOT commit STREQUAL "")
    set(VARVE_COMMIT ${commit})
  endif()
endif()
configure_file(${INPUT} ${OUTPUT} @ONLY)
