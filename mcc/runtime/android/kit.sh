#!/system/bin/sh
# Measures every model of the kit on the phone on which it runs, and writes the results to results.json.
#
#   sh kit.sh [ROUNDS]
#
# jobs.txt names the models, one a line: `timed FILE THREADS` or `profiled FILE THREADS INFERENCES`. Each round runs
# every timed model once, in a new process, so that drifts of the phone affect all alike. The first round is warm-up.

cd "${0%/*}" || exit 1
. ./phone.sh
rounds=${1:-12}
warm_ms=10 # before what is timed in a process, and
for_ms=40  # that long it is timed
cool_s=60  # to wait at most for a warm phone, before each run
limit_s=120
repeats=3  # profiles of a model

# Lines of standard input as strings of a JSON list.
strings() { sed -e 's/\\/\\\\/g' -e 's/"/\\"/g' -e 's/	/ /g' -e 's/.*/"&",/'; echo '""'; }

# record KIND FILE ROUND THREADS OPTIONS...: one run, with the runner's reports or errors.
record() {
    kind=$1 file=$2 round=$3 threads=$4; shift 4
    echo "{\"kind\": \"$kind\", \"file\": \"$file\", \"round\": $round, \"reports\": ["
    if turn $cool_s $warmest $cores $limit_s ./$LOADER --library-path . ./runner --threads $threads "$@" models/$file \
        > run.txt 2> errors.txt < /dev/null; then
        sed 's/$/,/' run.txt
        echo '{}]},'
    else
        echo "{}], \"error\": ["; tail -n 3 errors.txt | strings; echo ']},'
    fi
}

LOADER=ld-linux-aarch64.so.1
chmod 755 $LOADER runner
start=$(hottest)
warmest=$((${start:-0} ? ${start:-0} + 8000 : 0)) # as WARMER_MILLIDEGREES of runner.py
cores=$(cat cores.txt 2> /dev/null)
[ -n "$cores" ] || cores=$(fastest)
on $cores 10 true 2> /dev/null || cores=0
{
    echo '{"format": 1, "kit": ['; strings < kit.json
    echo '], "facts": ['; facts | strings
    echo '], "before": ['; state | strings
    echo "], \"cores\": \"$cores\", \"date\": \"$(date -u +%Y-%m-%dT%H:%M:%SZ)\", \"runs\": ["
} > results.part
round=0
while [ $round -lt $rounds ]; do
    while read -r kind file threads runs; do
        if [ "$kind" = timed ]; then
            record timed $file $round $threads --warm-ms $warm_ms --for-ms $for_ms >> results.part
        elif [ $round -lt $repeats ]; then
            record profiled $file $round $threads --warmup 1 --runs $runs --profile >> results.part
        fi
    done < jobs.txt
    round=$((round + 1))
    echo "round $round of $rounds is done"
done
{
    echo '{}], "after": ['; state | strings
    echo ']}'
} >> results.part
mv results.part results.json
