# SPDX-License-Identifier: Apache-2.0
# Each outside library becomes one interface target memo_dep_NAME, so that a room links what it
# needs by name. On clusters: environment modules that set CMAKE_PREFIX_PATH, PKG_CONFIG_PATH,
# HDF5_ROOT or MPI_HOME are enough; see README, "On a cluster".
find_package(Threads REQUIRED)

function(memo_dependency name)
    add_library(memo_dep_${name} INTERFACE)
    target_link_libraries(memo_dep_${name} INTERFACE ${ARGN})
endfunction()

# There are no CUDA kernels yet; what a later build would find is said now.
find_package(CUDAToolkit QUIET)
find_library(NCCL_LIBRARY nccl)
if(CUDAToolkit_FOUND)
    set(cuda_found "toolkit ${CUDAToolkit_VERSION} found")
else()
    set(cuda_found "no toolkit found")
endif()
if(NCCL_LIBRARY)
    set(nccl_found "NCCL found")
else()
    set(nccl_found "no NCCL found")
endif()
message(STATUS "memo: CUDA backend left out, this version has none (${cuda_found}, ${nccl_found})")

if(NOT MEMO_MINIMAL)
    find_package(PkgConfig REQUIRED)
    pkg_check_modules(uv REQUIRED IMPORTED_TARGET libuv)
    pkg_check_modules(pcre2 REQUIRED IMPORTED_TARGET libpcre2-8)
    pkg_check_modules(utf8proc REQUIRED IMPORTED_TARGET libutf8proc)
    pkg_check_modules(xxhash REQUIRED IMPORTED_TARGET libxxhash)
    pkg_check_modules(yaml REQUIRED IMPORTED_TARGET yaml-0.1)
    memo_dependency(uv PkgConfig::uv)
    memo_dependency(pcre2 PkgConfig::pcre2)
    memo_dependency(utf8proc PkgConfig::utf8proc)
    memo_dependency(xxhash PkgConfig::xxhash)
    memo_dependency(yaml PkgConfig::yaml)

    set(MPI_CXX_SKIP_MPICXX ON)
    find_package(MPI REQUIRED COMPONENTS C)
    memo_dependency(mpi MPI::MPI_C)

    find_package(HDF5 REQUIRED COMPONENTS C)
    add_library(memo_dep_hdf5 INTERFACE)
    target_include_directories(memo_dep_hdf5 SYSTEM INTERFACE ${HDF5_C_INCLUDE_DIRS})
    target_link_libraries(memo_dep_hdf5 INTERFACE ${HDF5_C_LIBRARIES})

    message(STATUS "memo: MPI ${MPI_C_VERSION}, HDF5 ${HDF5_VERSION}, libuv ${uv_VERSION}, PCRE2 ${pcre2_VERSION}")
endif()
