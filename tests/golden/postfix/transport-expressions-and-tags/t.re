/^[a-m].*@ours\.example$/ smtp:[am.example]
/@(ours|other)\.example$/ relay:[rest.example]:26
/@special\.corp\.example$/ smtp:[re-special.example]
/^root@/ discard:
