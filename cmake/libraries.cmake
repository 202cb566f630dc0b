# SPDX-License-Identifier: Apache-2.0
# Each outside library becomes one interface target memo_dep_NAME, so that a room links what it
# needs by name. On clusters: environment modules that set CMAKE_PREFIX_PATH, PKG_CONFIG_PATH,
# HDF5_ROOT or MPI_HOME are enough; see README, "On a cluster".
find_package(Threads REQUIRED)

function(memo_dependency name)
    add_library(memo_dep_${name} INTERFACE)
    target_link_libraries(memo_dep_${name} INTERFACE ${ARGN})
endfunction()

# CUDA: taken when a compiler for it is found, unless MEMO_CUDA says otherwise.
if(NOT MEMO_CUDA STREQUAL OFF)
    include(CheckLanguage)
    find_package(CUDAToolkit QUIET)
    if(CUDAToolkit_FOUND AND NOT CMAKE_CUDA_COMPILER)
        set(CMAKE_CUDA_COMPILER "${CUDAToolkit_NVCC_EXECUTABLE}")
    endif()
    check_language(CUDA)
endif()
if(NOT MEMO_CUDA STREQUAL OFF AND CMAKE_CUDA_COMPILER AND CUDAToolkit_FOUND)
    set(MEMO_WITH_CUDA ON)
    if(NOT DEFINED CMAKE_CUDA_ARCHITECTURES)
        set(CMAKE_CUDA_ARCHITECTURES 90) # code for Hopper, and PTX that newer ones compile
    endif()
    enable_language(CUDA)
    set(CMAKE_CUDA_STANDARD 17)
    string(REPLACE "-DNDEBUG" "" CMAKE_CUDA_FLAGS_RELEASE "${CMAKE_CUDA_FLAGS_RELEASE}")
    memo_dependency(cuda CUDA::cudart_static ${CMAKE_DL_LIBS}) # cuBLASLt is loaded when needed, see gemm.cu
    message(STATUS "memo: CUDA backend with toolkit ${CUDAToolkit_VERSION}, for sm_${CMAKE_CUDA_ARCHITECTURES}")
elseif(MEMO_CUDA STREQUAL ON)
    message(FATAL_ERROR "MEMO_CUDA=ON, but no CUDA compiler was found: set CUDACXX or CUDAToolkit_ROOT")
else()
    set(MEMO_WITH_CUDA OFF)
    message(STATUS "memo: no CUDA backend (MEMO_CUDA=${MEMO_CUDA})")
endif()

# NCCL, for several GPUs: its header is enough, the library is loaded when needed, see nccl_library.c.
set(MEMO_WITH_NCCL OFF)
if(MEMO_WITH_CUDA)
    find_path(NCCL_INCLUDE_DIR nccl.h HINTS ${CUDAToolkit_INCLUDE_DIRS} ENV NCCL_ROOT ENV NCCL_HOME
              PATH_SUFFIXES include)
    if(NCCL_INCLUDE_DIR)
        set(MEMO_WITH_NCCL ON)
        memo_dependency(nccl CUDA::cudart_static ${CMAKE_DL_LIBS})
        target_include_directories(memo_dep_nccl SYSTEM INTERFACE ${NCCL_INCLUDE_DIR} ${CUDAToolkit_INCLUDE_DIRS})
        message(STATUS "memo: NCCL's header in ${NCCL_INCLUDE_DIR}")
    else()
        message(STATUS "memo: no nccl.h: one GPU per job (NCCL_ROOT names another place)")
    endif()
endif()

if(NOT MEMO_MINIMAL)
    find_package(PkgConfig REQUIRED)
    pkg_check_modules(uv REQUIRED IMPORTED_TARGET libuv)
    pkg_check_modules(microhttpd REQUIRED IMPORTED_TARGET libmicrohttpd)
    pkg_check_modules(curl REQUIRED IMPORTED_TARGET libcurl)
    pkg_check_modules(pcre2 REQUIRED IMPORTED_TARGET libpcre2-8)
    pkg_check_modules(utf8proc REQUIRED IMPORTED_TARGET libutf8proc)
    pkg_check_modules(xxhash REQUIRED IMPORTED_TARGET libxxhash)
    pkg_check_modules(yaml REQUIRED IMPORTED_TARGET yaml-0.1)
    memo_dependency(uv PkgConfig::uv)
    memo_dependency(microhttpd PkgConfig::microhttpd)
    memo_dependency(curl PkgConfig::curl)
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

    message(STATUS "memo: MPI ${MPI_C_VERSION}, HDF5 ${HDF5_VERSION}, libuv ${uv_VERSION}, libcurl ${curl_VERSION}, libmicrohttpd ${microhttpd_VERSION}, PCRE2 ${pcre2_VERSION}")
endif()
