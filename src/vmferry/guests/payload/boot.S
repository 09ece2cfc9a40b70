/*
 * Entry of the stress payload, and the trampoline of its secondary CPUs.
 *
 * The loader enters at pvh_entry as the PVH boot protocol says: 32-bit protected mode, paging off, EBX = address
 * of hvm_start_info. Both paths end in 64-bit code with the first 64 GiB mapped one to one in 2 MiB pages.
 * Secondary CPUs begin in real mode at TRAMPOLINE, where `start_cpus` has copied the code between
 * trampoline_start and trampoline_end.
 */

#define TRAMPOLINE      0x8000
#define GIB_MAPPED      64
#define STACK_BYTES     4096
#define CR0_PE          0x00000001
#define CR0_PG          0x80000000
#define CR4_PAE         0x00000020
#define MSR_EFER        0xC0000080
#define EFER_LME        0x00000100
#define CODE32          0x08
#define DATA            0x10
#define CODE64          0x18

    .section .note.pvh, "a", @note
    .long 4, 4, 18                      /* name size, value size, XEN_ELFNOTE_PHYS32_ENTRY */
    .asciz "Xen"
    .long pvh_entry

    .section .note.source, "a", @note
    .long 8, 2f - 1f, 1                 /* what this was built from, for build.py to check */
    .asciz "vmferry"
1:  .ascii SOURCE
2:  .align 4

    .section .text
    .code32
    .globl pvh_entry
pvh_entry:
    cli
    cld
    movl %ebx, start_info

    /* Level 3 points to the level 2 tables, which map everything in 2 MiB pages. */
    movl $level2, %eax
    orl $3, %eax
    movl $level3, %edi
    movl $GIB_MAPPED, %ecx
1:  movl %eax, (%edi)
    addl $4096, %eax
    addl $8, %edi
    loop 1b

    xorl %edx, %edx                     /* high half of the address */
    movl $0x83, %eax                    /* present, writable, 2 MiB */
    movl $level2, %edi
    movl $(GIB_MAPPED * 512), %ecx
2:  movl %eax, (%edi)
    movl %edx, 4(%edi)
    addl $0x200000, %eax
    adcl $0, %edx
    addl $8, %edi
    loop 2b

    movl $level3, %eax
    orl $3, %eax
    movl %eax, level4

    lgdt gdt_pointer
    movl $stack_bsp, %esp
    movl $main_bsp, %ebx
    jmp enter_long_mode

/* Turn on paging and 64-bit mode, then call the function in EBX on the stack in ESP; EDI is its argument. */
enter_long_mode:
    movl %cr4, %eax
    orl $CR4_PAE, %eax
    movl %eax, %cr4
    movl $level4, %eax
    movl %eax, %cr3
    movl $MSR_EFER, %ecx
    rdmsr
    orl $EFER_LME, %eax
    wrmsr
    movl %cr0, %eax
    orl $(CR0_PG | CR0_PE), %eax
    movl %eax, %cr0
    ljmp $CODE64, $in_long_mode

    .code64
in_long_mode:
    movl $DATA, %eax
    movl %eax, %ds
    movl %eax, %es
    movl %eax, %ss
    xorl %ebp, %ebp
    movl %ebx, %ebx                     /* clears the high half */
    movl %esp, %esp
    movl %edi, %edi
    call *%rbx
3:  hlt
    jmp 3b

/* Secondary CPUs. */
    .code16
    .globl trampoline_start, trampoline_end
trampoline_start:
    cli
    xorw %ax, %ax
    movw %ax, %ds
    lgdtl (TRAMPOLINE + trampoline_gdt_pointer - trampoline_start)
    movl %cr0, %eax
    orl $CR0_PE, %eax
    movl %eax, %cr0
    ljmpl $CODE32, $secondary_32
trampoline_gdt_pointer:
    .word gdt_end - gdt - 1
    .long gdt
trampoline_end:

    .code32
secondary_32:
    movl $DATA, %eax
    movl %eax, %ds
    movl %eax, %es
    movl %eax, %ss
    movl $1, %edi
    lock xaddl %edi, cpus_started       /* EDI = number of this CPU, from 1 */
    movl %edi, %esp
    imull $STACK_BYTES, %esp
    addl $stack_bsp, %esp
    movl $main_secondary, %ebx
    jmp enter_long_mode

    .section .data
    .align 8
gdt:
    .quad 0
    .quad 0x00cf9b000000ffff            /* CODE32 */
    .quad 0x00cf93000000ffff            /* DATA */
    .quad 0x00af9b000000ffff            /* CODE64 */
gdt_end:
gdt_pointer:
    .word gdt_end - gdt - 1
    .long gdt
    .globl start_info, cpus_started
start_info:
    .long 0
cpus_started:
    .long 1                             /* the first CPU counts */

    .section .bss
    .align 4096
level4:
    .skip 4096
level3:
    .skip 4096
level2:
    .skip 4096 * GIB_MAPPED
    .skip STACK_BYTES
stack_bsp:                              /* the top of the first CPU's stack; others follow */
    .skip STACK_BYTES * 255
