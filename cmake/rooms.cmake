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

# memo_schedule_tests(): deferred to the end of a directory of tests. ctest runs with two places for each
# processor (bootstrap.sh): a test that computes takes two, one that mostly waits has PROCESSORS 1. The
# limits of time are guesses of the lengths, so that long tests start first.
function(memo_schedule_tests)
    get_property(names DIRECTORY PROPERTY TESTS)
    foreach(name IN LISTS names)
        get_property(places TEST ${name} PROPERTY PROCESSORS)
        get_property(timeout TEST ${name} PROPERTY TIMEOUT)
        if(NOT places)
            set_tests_properties(${name} PROPERTIES PROCESSORS 2)
        endif()
        if(timeout)
            set_tests_properties(${name} PROPERTIES COST ${timeout})
        endif()
    endforeach()
endfunction()

# MEMO_MPIRUN: how tests start ranks, as a list that a number of ranks and a command complete. Root
# is allowed only where the tests run as root; small machines have fewer cores than ranks.
if(NOT MEMO_MINIMAL)
    execute_process(COMMAND id -u OUTPUT_VARIABLE memo_uid OUTPUT_STRIP_TRAILING_WHITESPACE)
    set(MEMO_MPIRUN ${MPIEXEC_EXECUTABLE})
    if(memo_uid STREQUAL "0")
        list(APPEND MEMO_MPIRUN --allow-run-as-root)
    endif()
    list(APPEND MEMO_MPIRUN --oversubscribe --bind-to none ${MPIEXEC_NUMPROC_FLAG})
    # On one machine ob1 over shared memory starts fastest. Leaks are not looked for under MPI
    # (MEMO_SANITIZE): Open MPI leaves some 70 blocks behind between MPI_Init and MPI_Finalize.
    set(MEMO_MPI_ENVIRONMENT "OMPI_MCA_pml=ob1;OMPI_MCA_btl=self,vader"
        "OMPI_MCA_rmaps_base_oversubscribe=1" "ASAN_OPTIONS=detect_leaks=0" "OMP_NUM_THREADS=1")
endif()

# memo_mpi_test(NAME RANKS count... SOURCES file... [LINK library...] [TIMEOUT seconds]
#               [LABEL label] [ARGUMENTS word...]): one binary, and a test NAME_COUNT for each count,
# with label mpi unless LABEL says another.
function(memo_mpi_test name)
    cmake_parse_arguments(ARG "" "TIMEOUT;LABEL" "RANKS;SOURCES;LINK;ARGUMENTS" ${ARGN})
    add_executable(test_${name} ${ARG_SOURCES})
    target_link_libraries(test_${name} PRIVATE ${ARG_LINK} memo_testing)
    if(NOT ARG_TIMEOUT)
        set(ARG_TIMEOUT 120)
    endif()
    if(NOT ARG_LABEL)
        set(ARG_LABEL mpi)
    endif()
    foreach(ranks IN LISTS ARG_RANKS)
        add_test(NAME ${name}_${ranks}
                 COMMAND ${MEMO_MPIRUN} ${ranks} $<TARGET_FILE:test_${name}> ${ARG_ARGUMENTS})
        set_tests_properties(${name}_${ranks} PROPERTIES LABELS ${ARG_LABEL} TIMEOUT ${ARG_TIMEOUT}
                             PROCESSORS ${ranks} SKIP_RETURN_CODE 77
                             ENVIRONMENT "${MEMO_MPI_ENVIRONMENT}")
    endforeach()
endfunction()
