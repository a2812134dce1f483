"""System calls that a program is refused, with their numbers on x86_64 and aarch64 (``-``: there is none)."""

from __future__ import annotations

# Where a call would reach another process, the host, or what outlives the program, no program that computes needs it.
_REFUSED = """
    ptrace 101 117              process_vm_readv 310 270    process_vm_writev 311 271   kcmp 312 272
    pidfd_getfd 438 438         process_madvise 440 440     process_mrelease 448 448    perf_event_open 298 241
    bpf 321 280                 userfaultfd 323 282         execve 59 221               execveat 322 281

    unshare 272 97              setns 308 268               mount 165 40                umount2 166 39
    pivot_root 155 41           chroot 161 51               move_mount 429 429          open_tree 428 428
    fsopen 430 430              fsconfig 431 431            fsmount 432 432             fspick 433 433
    mount_setattr 442 442       name_to_handle_at 303 264   open_by_handle_at 304 265   acct 163 89
    quotactl 179 60             quotactl_fd 443 443         swapon 167 224              swapoff 168 225
    fanotify_init 300 262       fanotify_mark 301 263       nfsservctl 180 42           lookup_dcookie 212 18

    socket 41 198               connect 42 203              bind 49 200                 listen 50 201
    accept 43 202               accept4 288 242
    io_uring_setup 425 425      io_uring_enter 426 426      io_uring_register 427 427

    init_module 175 105         finit_module 313 273        delete_module 176 106       create_module 174 -
    kexec_load 246 104          kexec_file_load 320 294     reboot 169 142              syslog 103 116
    settimeofday 164 170        clock_settime 227 112       clock_adjtime 305 266       adjtimex 159 171
    sethostname 170 161         setdomainname 171 162       vhangup 153 58              ioperm 173 -
    iopl 172 -                  modify_ldt 154 -            uselib 134 -                ustat 136 -
    sysfs 139 -                 _sysctl 156 -               get_kernel_syms 177 -       query_module 178 -

    add_key 248 217             request_key 249 218         keyctl 250 219
    shmget 29 194               shmat 30 196                shmctl 31 195               shmdt 67 197
    semget 64 190               semop 65 193                semctl 66 191               semtimedop 220 192
    msgget 68 186               msgsnd 69 189               msgrcv 70 188               msgctl 71 187
    mq_open 240 180             mq_unlink 241 181           mq_timedsend 242 182        mq_timedreceive 243 183
    mq_notify 244 184           mq_getsetattr 245 185       memfd_create 319 279        memfd_secret 447 447

    chown 92 -                  fchown 93 55                lchown 94 -                 fchownat 260 54
    setxattr 188 5              lsetxattr 189 6             fsetxattr 190 7             removexattr 197 14
    lremovexattr 198 15         fremovexattr 199 16

    ioprio_set 251 30           set_mempolicy 238 237       mbind 237 235               migrate_pages 256 238
    move_pages 279 239          set_mempolicy_home_node 450 450
    timer_create 222 107
"""

# Refused for some arguments only; see ``seccomp.py``.
_JUDGED = """
    clone 56 220                clone3 435 435              personality 135 92
    prlimit64 302 261           setpriority 141 140         sched_setparam 142 118      sched_setscheduler 144 119
    sched_setattr 314 274       sched_setaffinity 203 122   socketpair 53 199           sendto 44 206
    fcntl 72 25                 ioctl 16 29                 mknod 133 -                 mknodat 259 33
"""

# The last call that this list knows (mseal): what is newer is not there, for a program.
LAST = 462


def _read(table: str, column: int) -> dict[str, int]:
    words = table.split()
    rows = zip(words[::3], words[1::3], words[2::3], strict=True)
    return {row[0]: int(row[column]) for row in rows if row[column] != "-"}


REFUSED = {"x86_64": _read(_REFUSED, 1), "aarch64": _read(_REFUSED, 2)}
JUDGED = {"x86_64": _read(_JUDGED, 1), "aarch64": _read(_JUDGED, 2)}
