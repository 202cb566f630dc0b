# SPDX-License-Identifier: Apache-2.0
# cmake -DIN=FILE -DOUT=FILE -DSYMBOL=NAME -DHEADER=FILE -P embed_text.cmake: writes a C file that
# defines NAME, the bytes of FILE and a NUL, and NAME_bytes, as the header declares them.
file(READ "${IN}" hex HEX)
string(REGEX REPLACE "([0-9a-f][0-9a-f])" "0x\\1," bytes "${hex}")
string(REGEX REPLACE "((0x[0-9a-f][0-9a-f],)(0x[0-9a-f][0-9a-f],)(0x[0-9a-f][0-9a-f],)(0x[0-9a-f][0-9a-f],)(0x[0-9a-f][0-9a-f],)(0x[0-9a-f][0-9a-f],)(0x[0-9a-f][0-9a-f],)(0x[0-9a-f][0-9a-f],))"
       "\\1\n" bytes "${bytes}")
file(WRITE "${OUT}" "// Generated from ${IN}.\n#include \"${HEADER}\"\n\n"
     "const char ${SYMBOL}[] = {\n${bytes}0};\nconst size_t ${SYMBOL}_bytes = sizeof ${SYMBOL} - 1;\n")
