# Writes, for the kernels of a CUDA source that the preprocessor has been through, the table that the emulated device finds
# them by.
/__global__/ { kernels = 1 }
kernels { text = text " " $0 }
# The arguments of attribute `name` in `head`, or nothing.
function attribute(head, name,    at, depth, i, c) {
    at = index(head, name "(")
    if (at == 0) return ""
    head = substr(head, at + length(name) + 1)
    depth = 1
    for (i = 1; i <= length(head); i++) {
        c = substr(head, i, 1)
        if (c == "(") depth++
        if (c == ")" && --depth == 0) return substr(head, 1, i - 1)
    }
    return ""
}
END {
    while ((at = index(text, "__global__")) > 0) {
        text = substr(text, at + length("__global__"))
        end = index(text, "{")
        head = substr(text, 1, end - 1)
        bounds = attribute(head, "__launch_bounds__")
        sub(/,.*/, "", bounds)
        cluster = attribute(head, "__cluster_dims__")
        while (match(head, /__[a-z_]+__\([^()]*\)/)) head = substr(head, 1, RSTART - 1) substr(head, RSTART + RLENGTH)
        match(head, /[A-Za-z_][A-Za-z_0-9]*[ \t]*\(/)
        name = substr(head, RSTART, RLENGTH - 1)
        parameters = substr(head, RSTART + RLENGTH)
        sub(/[ \t]+$/, "", name)
        sub(/\)[^)]*$/, "", parameters)
        # By a name of its own: a template may have the kernel's.
        declarations = declarations sprintf(\
            "extern \"C\" __global__ void emulated_%s(%s) asm(\"%s\");\n", name, parameters, name)
        entries = entries sprintf("    emulated_kernel<&emulated_%s>(\"%s\", %s, {%s}),\n", name, name,
            bounds == "" ? 0 : bounds, cluster == "" ? "0, 0, 0" : cluster)
    }
    printf "#include \"emulated_module.h\"\n"
    printf "%s", declarations
    printf "static const emulator::KernelInfo emulated_kernels[] = {\n%s};\n", entries
    printf "EMULATED_MODULE(emulated_kernels)\n"
}
