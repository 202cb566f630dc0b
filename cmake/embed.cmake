# SPDX-License-Identifier: Apache-2.0
# cmake -DOUT=FILE -DNAMES="a.txt;b.txt" -DDIRECTORY=DIR -P embed.cmake: writes a C file that defines
# embedded_files (datasets/embedded.h) with the bytes of the named files.
set(arrays "")
set(rows "")
set(index 0)
foreach(name IN LISTS NAMES)
    file(READ "${DIRECTORY}/${name}" hex HEX)
    string(REGEX REPLACE "([0-9a-f][0-9a-f])" "0x\\1," bytes "${hex}")
    string(REGEX REPLACE "(0x[0-9a-f][0-9a-f],0x[0-9a-f][0-9a-f],0x[0-9a-f][0-9a-f],0x[0-9a-f][0-9a-f],0x[0-9a-f][0-9a-f],0x[0-9a-f][0-9a-f],0x[0-9a-f][0-9a-f],0x[0-9a-f][0-9a-f],)"
           "\\1\n" bytes "${bytes}")
    string(APPEND arrays "static const unsigned char file_${index}[] = {\n${bytes}0};\n")
    string(APPEND rows "    {\"${name}\", (const char *)file_${index}, sizeof file_${index} - 1},\n")
    math(EXPR index "${index} + 1")
endforeach()
file(WRITE "${OUT}" "// Generated from ${DIRECTORY}.\n#include \"datasets/embedded.h\"\n\n${arrays}\n"
     "const struct embedded_file embedded_files[] = {\n${rows}};\n"
     "const size_t embedded_file_count = ${index};\n")
