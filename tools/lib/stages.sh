# shellcheck shell=bash
# The stages of tools/test: each runs whatever became of those before, and the summary names those that failed.
#
#   stage NAME COMMAND...      run one stage
#   finish                     print the summary; its status is 1 when a stage failed

stage_lines=()
stages_failed=()

stage() {
    local name=$1 started=$SECONDS state=ok; shift
    printf '\n== %s\n' "$name"
    "$@" < /dev/null || { state="FAILED"; stages_failed+=("$name"); }
    stage_lines+=("$(printf '   %-8s %-6s %4d s' "$name" "$state" $((SECONDS - started)))")
}

finish() {
    printf '\n== summary\n'
    printf '%s\n' "${stage_lines[@]}"
    if [ ${#stages_failed[@]} -gt 0 ]; then
        printf 'failed: %s\n' "${stages_failed[*]}"
        return 1
    fi
    printf 'all stages are well\n'
}
