# bash completion of qdist, qdist-master and qdist-worker. The programs know what can stand where; they are asked.

_qdist()
{
    local program=${1##*/} line IFS=$'\n'
    program=${program//-/_}
    COMPREPLY=()
    for line in $(env COMP_WORDS="${COMP_WORDS[*]}" COMP_CWORD="$COMP_CWORD" \
        "_${program^^}_COMPLETE=bash_complete" "$1" 2>/dev/null); do
        case $line in
            plain,*) COMPREPLY+=("${line#*,}") ;;
            file,*) compopt -o default ;;
            dir,*) compopt -o dirnames ;;
        esac
    done
} && complete -o nosort -F _qdist qdist qdist-master qdist-worker
