#include "glyptic/cli/cli.h"

int main(int argc, char** argv) {
  return glyptic::cli::run({argv + 1, argv + argc});
}
