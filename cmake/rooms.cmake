# SPDX-License-Identifier: Apache-2.0

# memo_room(NAME SOURCES file... [LINK library...]): the static library memo_NAME.
function(memo_room name)
    cmake_parse_arguments(ARG "" "" "SOURCES;LINK" ${ARGN})
    add_library(memo_${name} STATIC ${ARG_SOURCES})
    target_include_directories(memo_${name} PUBLIC ${PROJECT_SOURCE_DIR})
    target_link_libraries(memo_${name} PUBLIC ${ARG_LINK} m Threads::Threads)
endfunction()

# memo_test(NAME SOURCES file... [LINK library...] [LABELS label...] [TIMEOUT seconds]
#           [COMMAND word...]): a test binary run by ctest; exit 77 means skipped, with the reason
# printed. COMMAND replaces the plain call, {} in it stands for the binary.
function(memo_test name)
    cmake_parse_arguments(ARG "" "TIMEOUT" "SOURCES;LINK;LABELS;COMMAND" ${ARGN})
    add_executable(test_${name} ${ARG_SOURCES})
    target_link_libraries(test_${name} PRIVATE ${ARG_LINK} memo_testing)
    if(NOT ARG_COMMAND)
        set(ARG_COMMAND {})
    endif()
    list(TRANSFORM ARG_COMMAND REPLACE "^{}$" "$<TARGET_FILE:test_${name}>")
    add_test(NAME ${name} COMMAND ${ARG_COMMAND})
    if(NOT ARG_LABELS)
        set(ARG_LABELS unit)
    endif()
    if(NOT ARG_TIMEOUT)
        set(ARG_TIMEOUT 120)
    endif()
    set_tests_properties(${name} PROPERTIES LABELS "${ARG_LABELS}" TIMEOUT ${ARG_TIMEOUT}
                         SKIP_RETURN_CODE 77)
endfunction()
