file(WRITE "${CMAKE_BINARY_DIR}/extension.txt" "")
foreach(name IN ITEMS
    HOMEPAGE CATEGORY CONTRIBUTORS DESCRIPTION ICONURL SCREENSHOTURLS DEPENDS RECOMMENDS KEYWORDS README_FILE LICENSE_FILE)
  list(LENGTH EXTENSION_${name} length)
  if(NOT length EQUAL 1)  # empty, or not quoted as one value
    message(FATAL_ERROR "EXTENSION_${name} must be one quoted value: ${EXTENSION_${name}}")
  endif()
  file(APPEND "${CMAKE_BINARY_DIR}/extension.txt" "${name}=${EXTENSION_${name}}\n")
endforeach()
