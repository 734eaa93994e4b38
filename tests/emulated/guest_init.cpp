// SPDX-License-Identifier: Apache-2.0
// The first process of the emulated machine: runs /parity with its own arguments, says how that ended, and waits.
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

#include <cstdio>

int main(int, char** argv) {
  static char program[] = "/parity";
  const pid_t child = fork();
  if (child == 0) {
    argv[0] = program;
    execv(program, argv);
    std::perror(program);
    _exit(127);
  }
  int status = 0;
  waitpid(child, &status, 0);
  if (WIFSIGNALED(status)) {
    std::printf("guest: killed by signal %d\n", WTERMSIG(status));
  } else {
    std::printf("guest: exit status %d\n", WEXITSTATUS(status));
  }
  std::fflush(stdout);
  tcdrain(STDOUT_FILENO);
  while (true) pause();  // the first process must not end; whoever reads that line ends the emulator
}
